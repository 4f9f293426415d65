# SPDX-License-Identifier: BSD-2-Clause
"""The scripts of sessions that have their slots, of workers and of values (redis_scripts.py has the rest)."""

from __future__ import annotations

from typing import Final

from gateway.store.redis.redis_scripts import HEAD, NEW_HEAD, SESSION

# ARGV: id, started_at.
MARK_RUNNING: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'started_at')
if s[1] == 'starting' then
    become('starting', 'running')
    redis.call('HSET', SESSION, 'started_at', ARGV[2])
elseif s[2] ~= ARGV[2] then
    return {'unchanged', s[1] or 'unknown'}
end
return {'ok'}
"""
)

# ARGV: id, times.
MARK_RESUMED: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'resumed')
if s[1] and tonumber(s[2] or '0') < tonumber(ARGV[2]) then redis.call('HSET', SESSION, 'resumed', ARGV[2]) end
return {'ok'}
"""
)

# ARGV: id, start type.
CORRECT_START_TYPE: Final = (
    HEAD
    + SESSION
    + """
if redis.call('EXISTS', SESSION) == 1 then redis.call('HSET', SESSION, 'start_type', ARGV[2]) end
return {'ok'}
"""
)

# ARGV: id, attempt, terminal state if it did not run, and if it did, ended_at, "unattached" or "", then
# fields and values.
END: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'started_at', 'stream_id', '_terminal', '_ended', 'ending_at')
leave_queue()
if s[5] == ARGV[2] then return {'ok'} end
if not s[1] or is_over(s[1]) then return {'unchanged', s[1] or 'unknown'} end
if s[1] == 'ending' then
    if ARGV[6] == 'unattached' then return {'unchanged', s[1]} end
    redis.call('HSET', SESSION, '_ended', ARGV[2])
    finish('ending', s[4], s[6])
    return {'ok'}
end
if ARGV[6] == 'unattached' and s[3] then return {'unchanged', s[1]} end
redis.call('HSET', SESSION, '_ended', ARGV[2], unpack(ARGV, 7))
finish(s[1], s[2] and ARGV[4] or ARGV[3], ARGV[5])
return {'ok'}
"""
)

# ARGV: id, attempt, terminal state if it did not run, and if it did, ending_at, then fields and values.
BEGIN_END: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'started_at', '_ended')
if s[3] == ARGV[2] then return {'ok'} end
if s[1] ~= 'starting' and s[1] ~= 'running' then return {'unchanged', s[1] or 'unknown'} end
become(s[1], 'ending')
redis.call('ZREM', STOPS, ID)
redis.call('HSET', SESSION, '_ended', ARGV[2], '_terminal', s[2] and ARGV[4] or ARGV[3], 'ending_at', ARGV[5],
           unpack(ARGV, 6))
return {'ok'}
"""
)

# ARGV: id, heard_ms.
CORRECT_PLAYED: Final = (
    HEAD
    + SESSION
    + """
if get('heard_ms')[1] then redis.call('HSET', SESSION, 'heard_ms', ARGV[2]) end
return {'ok'}
"""
)

# ARGV: id, released_at, released_by or "".
RELEASE: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', '_terminal', 'ending_at')
if s[1] ~= 'ending' then return {'unchanged', s[1] or 'unknown'} end
redis.call('HSET', SESSION, 'released_at', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', SESSION, 'released_by', ARGV[3]) end
finish('ending', s[2], s[3])
return {'ok'}
"""
)

# ARGV: id, attempt, then fields and values of the report.
COMPLETE: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'completed_at', '_report')
if s[3] == ARGV[2] then return {'ok'} end
if not s[1] or is_over(s[1]) or s[1] == 'created' or s[2] then return {'unchanged'} end
redis.call('HSET', SESSION, '_report', ARGV[2], unpack(ARGV, 3))
return {'ok'}
"""
)

# ARGV: id, at, then fields and values of a pending session's end.
REQUEST_STOP: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'number', 'stop_requested_at')
if not s[1] then return {'unchanged'} end
if is_over(s[1]) then
    if s[1] == 'canceled' and s[3] == ARGV[2] then return {'ok'} end
    return {'unchanged'}
end
redis.call('HSETNX', SESSION, 'stop_requested_at', ARGV[2])
if s[1] == 'created' then
    redis.call('HSET', SESSION, unpack(ARGV, 3))
    finish('created', 'canceled', ARGV[2])
elseif s[1] ~= 'ending' then
    redis.call('ZADD', STOPS, tonumber(s[2], 16), ID)
end
return {'ok'}
"""
)

# ARGV: id, now, then fields and values of its end.
EXPIRE: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'promised_until')
if s[1] ~= 'created' then
    redis.call('ZREM', EXPIRY, ID)
elseif tonumber(s[2]) <= tonumber(ARGV[2]) then
    redis.call('HSET', SESSION, unpack(ARGV, 3))
    finish('created', 'canceled', ARGV[2])
end
return {'ok'}
"""
)

# ARGV: id, the dead worker's id, the heir's id, now, attempt, then fields and values of the end. `OWNED` is
# the heir's.
LOSE: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'owner', 'transport', '_lost')
if s[4] == ARGV[5] then return {'lost'} end
if not s[1] or is_over(s[1]) or s[2] ~= ARGV[2] then return {'unchanged'} end
if s[1] == 'ending' then
    redis.call('HSET', SESSION, 'owner', ARGV[3])
    redis.call('SADD', OWNED, ID)
    return {'taken over'}
end
redis.call('HSET', SESSION, '_lost', ARGV[5], unpack(ARGV, 6))
if s[3] == 'telephony' or s[3] == 'websocket' then
    finish(s[1], 'failed', ARGV[4])
    return {'lost'}
end
become(s[1], 'ending')
redis.call('ZREM', STOPS, ID)
redis.call('HSET', SESSION, 'owner', ARGV[3], 'ending_at', ARGV[4], '_terminal', 'failed')
redis.call('SADD', OWNED, ID)
return {'lost'}
"""
)

# ARGV: id, ended before; "unused": one that never had a slot. Forget a session that is over.
FORGET: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'number', 'ended_at', 'admitted_at', 'promised_until')
if not s[1] then
    for at = 18, 20 do redis.call('ZREM', KEYS[at], ID) end
    redis.call('ZREM', KEYS[26], ID)
    return {'ok'}
end
if not is_over(s[1]) then return {'unchanged'} end
leave_lists(s[1], s[2] .. ':' .. ID)
redis.call('ZREM', OVER, ID)
redis.call('ZREM', UNUSED, ID)
redis.call('ZREM', KEYS[26], ID)
redis.call('DEL', SESSION)
return {'ok'}
"""
)

# ARGV: id.
BLANK: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'ended_at')
if not s[1] or not is_over(s[1]) then return {'unchanged'} end
redis.call('HDEL', SESSION, 'call_id', 'stream_id', 'from_number', 'to_number', 'metadata', 'transcript',
           'results', '_call_id')
redis.call('ZREM', OVER, ID)
redis.call('ZADD', KEYS[26], s[2], ID)
return {'ok'}
"""
)

# KEYS: the worker, workers. ARGV: id, host, pid, born, now or "" for the server's clock, STALE_S.
HEARTBEAT: Final = (
    HEAD
    + """
local now = tonumber(ARGV[5])
if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local w = redis.call('HMGET', KEYS[1], 'heard_since', 'beat_at', 'beats')
local since = now
if w[1] then
    local gap = now - tonumber(w[2])
    if gap >= 0 and gap <= tonumber(ARGV[6]) then since = w[1] end
end
redis.call('HSET', KEYS[1], 'host', ARGV[2], 'pid', ARGV[3], 'born', ARGV[4], 'heard_since', since,
           'beat_at', now, 'beats', 1)
redis.call('SADD', KEYS[2], ARGV[1])
-- An admission makes a worker's hash too, but only a heartbeat says that its sessions are there.
return {w[3] and 1 or 0, tostring(now)}
"""
)

# KEYS: the worker. What a full server refuses, as it refuses an admission.
PROBE: Final = NEW_HEAD + "redis.call('HSET', KEYS[1], 'probed', 1)\nreturn 1\n"

# KEYS: sessions. ARGV: the worker's id, then for each session its number of values, and fields and values.
PASSED: Final = (
    HEAD
    + """
local at = 2
for _, session in ipairs(KEYS) do
    local count = tonumber(ARGV[at])
    local s = redis.call('HMGET', session, 'state', 'owner')
    if s[1] == 'running' and s[2] == ARGV[1] then
        redis.call('HSET', session, unpack(ARGV, at + 1, at + count))
    end
    at = at + 1 + count
end
return 1
"""
)

# KEYS: the worker, workers, owned. ARGV: id.
FORGET_WORKER: Final = (
    HEAD
    + """
redis.call('DEL', KEYS[1], KEYS[3])
redis.call('SREM', KEYS[2], ARGV[1])
return 1
"""
)

# KEYS: queue, queued_until. ARGV: now, dead worker or "". Remove calls that have given up or are of a worker.
CLEAN_QUEUE: Final = (
    HEAD
    + """
local found = redis.call('HGETALL', KEYS[2])
for at = 1, #found, 2 do
    local waits_until, worker = string.match(found[at + 1], '^(%S+) (.*)$')
    if tonumber(waits_until) <= tonumber(ARGV[1]) or worker == ARGV[2] then
        redis.call('ZREM', KEYS[1], found[at])
        redis.call('HDEL', KEYS[2], found[at])
    end
end
return 1
"""
)

# KEYS: value, values of its kind, value_expiry. ARGV: key, value, now, expires_at or "", attempt, "absent" or
# "".
PUT: Final = """#!lua
if ARGV[6] == 'absent' then
    local found = redis.call('HMGET', KEYS[1], 'expires_at', 'attempt', 'value')
    if found[2] == ARGV[5] then return 1 end
    if found[3] and (found[1] == '' or tonumber(found[1]) > tonumber(ARGV[3])) then return 0 end
end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'created_at', ARGV[3], 'expires_at', ARGV[4],
           'attempt', ARGV[5])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
if ARGV[4] == '' then redis.call('ZREM', KEYS[3], KEYS[1])
else redis.call('ZADD', KEYS[3], ARGV[4], KEYS[1]) end
return 1
"""

# KEYS as PUT. ARGV as PUT, then the value that is replaced. The new value may be there: the reply was lost.
REPLACE: Final = """#!lua
local found = redis.call('HMGET', KEYS[1], 'expires_at', 'value')
if not found[2] or (found[2] ~= ARGV[7] and found[2] ~= ARGV[2]) then return 0 end
if found[1] ~= '' and tonumber(found[1]) <= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'value', ARGV[2], 'created_at', ARGV[3], 'expires_at', ARGV[4],
           'attempt', ARGV[5])
if ARGV[4] == '' then redis.call('ZREM', KEYS[3], KEYS[1])
else redis.call('ZADD', KEYS[3], ARGV[4], KEYS[1]) end
return 1
"""

# KEYS as PUT, then the attempt's. ARGV: key, now or "": only if it has expired by then; then seconds.
REMOVE: Final = (
    HEAD
    + """
if redis.call('EXISTS', KEYS[4]) == 1 then return 1 end
local expires_at = redis.call('HGET', KEYS[1], 'expires_at')
if ARGV[2] ~= '' and (not expires_at or expires_at == '' or tonumber(expires_at) > tonumber(ARGV[2])) then
    if not expires_at then redis.call('ZREM', KEYS[3], KEYS[1]) end
    return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], KEYS[1])
local removed = redis.call('DEL', KEYS[1])
if removed == 1 and ARGV[2] == '' then redis.call('SET', KEYS[4], '1', 'EX', ARGV[3]) end
return removed
"""
)
