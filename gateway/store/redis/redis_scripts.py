# SPDX-License-Identifier: BSD-2-Clause
"""The store's steps as Lua scripts: each is atomic, and may run twice.

A reply can be lost after the server has done the work, and the client then sends the command again. So a
step that takes something writes the `attempt` of the caller, and gives the same answer to the same attempt;
every other step asks for the state that it changes. Every key is declared, as a cluster requires.

`KEYS` of the scripts on sessions are those of `redis_keys.session_keys`, in this order: 1 the session;
2 counts; 3 number; 4 to 8 the agent's pending, active, canceled, ended, failed sessions; 9 to 13 the
organization's; 14 load; 15 queue; 16 queued_until; 17 owned; 18 expiry; 19 unused; 20 over; 21 stops;
22 usage; 23 the worker; 24 workers; 25 organizations; 26 blanked; 27 agents;
28 pending_of_key.
"""

from __future__ import annotations

from typing import Final

HEAD: Final = "#!lua flags=allow-oom\n"
"""A full server must still let calls go on and end."""

NEW_HEAD: Final = "#!lua\n"
"""A full server refuses what begins something new, before it has begun."""

SESSION: Final = """
local SESSION, COUNTS, NUMBER, LOAD, QUEUE, UNTIL = KEYS[1], KEYS[2], KEYS[3], KEYS[14], KEYS[15], KEYS[16]
local OWNED, EXPIRY, UNUSED, OVER, STOPS = KEYS[17], KEYS[18], KEYS[19], KEYS[20], KEYS[21]
local ID = ARGV[1]

local function get(...)
    local found = redis.call('HMGET', SESSION, ...)
    for at = 1, #found do
        if found[at] == false then found[at] = nil end
    end
    return found
end

local OFFSETS = {pending = 0, active = 1, canceled = 2, ended = 3, failed = 4}

local function set_of(state)
    if state == 'created' then return 'pending' end
    if OFFSETS[state] then return state end
    return 'active'
end

local function leave_lists(state, member)
    local at = OFFSETS[set_of(state)]
    redis.call('ZREM', KEYS[4 + at], member)
    redis.call('ZREM', KEYS[9 + at], member)
end

local function join_lists(state, member, created_at)
    local at = OFFSETS[set_of(state)]
    redis.call('ZADD', KEYS[4 + at], created_at, member)
    redis.call('ZADD', KEYS[9 + at], created_at, member)
end

local function unload(instance)
    if redis.call('HINCRBY', LOAD, instance, -1) <= 0 then redis.call('HDEL', LOAD, instance) end
end

-- Change the state in every place that has it.
local function become(old, new)
    local found = redis.call('HMGET', SESSION, 'number', 'created_at', 'instance')
    local member = found[1] .. ':' .. ID
    redis.call('HINCRBY', COUNTS, old, -1)
    redis.call('HINCRBY', COUNTS, new, 1)
    local from, to = set_of(old), set_of(new)
    if from ~= to then
        leave_lists(old, member)
        join_lists(new, member, found[2])
        if from == 'active' then unload(found[3]) end
        if to == 'active' then redis.call('HINCRBY', LOAD, found[3], 1) end
    end
    redis.call('HSET', SESSION, 'state', new)
end

-- Make a session that is not there yet.
local function create(state, created_at, instance)
    local number = string.format('%016x', redis.call('INCR', NUMBER))
    redis.call('HSET', SESSION, 'id', ID, 'number', number, 'state', state, 'created_at', created_at)
    redis.call('HINCRBY', COUNTS, state, 1)
    join_lists(state, number .. ':' .. ID, created_at)
    if set_of(state) == 'active' then redis.call('HINCRBY', LOAD, instance, 1) end
end

local function leave_queue()
    if redis.call('ZREM', QUEUE, ID) == 1 then redis.call('HDEL', UNTIL, ID) end
end

-- The last step of every session.
local function finish(old, terminal, ended_at)
    become(old, terminal)
    redis.call('HSET', SESSION, 'ended_at', ended_at)
    redis.call('ZADD', OVER, ended_at, ID)
    redis.call('ZREM', STOPS, ID)
    redis.call('SREM', OWNED, ID)
    local found = redis.call('HMGET', SESSION, 'admitted_at', 'agent', 'promised_until')
    if found[1] then
        local day = string.format('%d', math.floor(tonumber(found[1]) / 86400))
        local seconds = math.max(0, tonumber(ended_at) - tonumber(found[1]))
        redis.call('HINCRBY', KEYS[22], day .. ' ' .. found[2] .. ' sessions', 1)
        redis.call('HINCRBYFLOAT', KEYS[22], day .. ' ' .. found[2] .. ' seconds', tostring(seconds))
    elseif found[3] then
        redis.call('ZREM', EXPIRY, ID)
        redis.call('ZREM', KEYS[28], ID)
        redis.call('ZADD', UNUSED, found[3], ID)
    end
end

local function is_over(state)
    return state == 'ended' or state == 'failed' or state == 'canceled'
end
"""

# The rule of gateway/store/admission.py, on `loads`.
_CHOOSE: Final = """
-- rule: per_instance, max_instances, reserved, limit, then url and rank of each instance
local function choose(rule, loads, queued_before)
    local per_instance, max_instances = tonumber(rule[1]), tonumber(rule[2])
    local reserved, limit = tonumber(rule[3]), tonumber(rule[4])
    local in_use, open = 0, 0
    for _, load in pairs(loads) do
        in_use, open = in_use + load, open + 1
    end
    if queued_before > 0 or (reserved > 0 and limit - in_use <= reserved) then return nil, in_use end
    local best, best_rank, best_load
    for at = 5, #rule, 2 do
        local rank, load = tonumber(rule[at + 1]), loads[rule[at]] or 0
        local has_room = open < max_instances
        if load > 0 then has_room = load < per_instance end
        if has_room and (not best or rank < best_rank or (rank == best_rank and load < best_load)) then
            best, best_rank, best_load = rule[at], rank, load
        end
    end
    return best, in_use
end

local function loads_of_agent()
    local found, loads = redis.call('HGETALL', LOAD), {}
    for at = 1, #found, 2 do loads[found[at]] = tonumber(found[at + 1]) end
    return loads
end
"""

# ARGV: id, now, expires_at, attempt, the API key's pending limit or 0, then fields and values.
CREATE_PENDING: Final = (
    NEW_HEAD
    + SESSION
    + """
local limit = tonumber(ARGV[5])
if redis.call('EXISTS', SESSION) == 1 then
    if get('_attempt')[1] == ARGV[4] then return {'ok'} end
    return {'exists'}
end
if limit > 0 then
    local pending = redis.call('ZCOUNT', KEYS[28], '(' .. ARGV[2], '+inf')
    if pending >= limit then return {'full', pending, limit} end
    redis.call('ZREMRANGEBYSCORE', KEYS[28], '-inf', ARGV[2])
    redis.call('ZADD', KEYS[28], ARGV[3], ID)
end
create('created', ARGV[2], '')
redis.call('HSET', SESSION, '_attempt', ARGV[4], 'promised_until', ARGV[3], 'instance', '', 'owner', '')
redis.call('HSET', SESSION, unpack(ARGV, 6))
redis.call('ZADD', EXPIRY, ARGV[3], ID)
redis.call('SADD', KEYS[25], redis.call('HGET', SESSION, 'organization'))
return {'ok'}
"""
)

# KEYS: the session, counts, number, the agent's active sessions, the organization's, load, queue, owned, the
# worker, organizations. ARGV: id, attempt, worker id, now, organization's limit or 0, "queue" if the call
# would wait or "", per_instance, max_instances, reserved, limit, number of ranks, then for each rank the
# number of its instances, then all their URLs, then fields and values.
#
# What nearly every call needs, and nothing else: ADMIT costs three times as much. The session must not be
# there yet, nobody waits, and the worker is known. Else the answer is "other", and ADMIT decides.
ADMIT_NEW: Final = (
    NEW_HEAD
    + """
local ARGV, call = ARGV, redis.call
local ID, attempt, worker, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- One question for three: the worker is there (1), no queue (2 for each), no session (2 for each).
if call('EXISTS', KEYS[9], KEYS[7], KEYS[7], KEYS[1], KEYS[1]) ~= 1 then
    local s = call('HMGET', KEYS[1], 'state', '_attempt', 'instance')
    if s[2] == attempt and s[1] ~= 'created' then return {'ok', s[3], ''} end
    return {'other'}
end
local most = tonumber(ARGV[5])
if most > 0 then
    local in_use = call('ZCARD', KEYS[5])
    if in_use >= most then return {'full', in_use, most} end
end
local per_instance, reserved, limit = tonumber(ARGV[7]), tonumber(ARGV[9]), tonumber(ARGV[10])
local ranks = tonumber(ARGV[11])
local at = 11 + ranks
local best, may_open
if reserved == 0 or limit - call('ZCARD', KEYS[4]) > reserved then
    for rank = 12, 11 + ranks do
        local best_load, last = per_instance, at + tonumber(ARGV[rank])
        while at < last and best_load > 0 do
            local next = math.min(at + 100, last)
            local loads = call('HMGET', KEYS[6], unpack(ARGV, at + 1, next))
            for each = 1, next - at do
                local load = tonumber(loads[each] or 0)
                if load < best_load then
                    if load == 0 and may_open == nil then
                        may_open = call('HLEN', KEYS[6]) < tonumber(ARGV[8])
                    end
                    if load > 0 or may_open then best, best_load = at + each, load end
                    if best_load == 0 then break end
                end
            end
            at = next
        end
        at = last
        if best then break end
    end
end
if not best then
    if ARGV[6] ~= '' then return {'other'} end
    return {'full', call('ZCARD', KEYS[4]), limit}
end
at = 11 + ranks
for rank = 12, 11 + ranks do at = at + tonumber(ARGV[rank]) end
local instance, number = ARGV[best], string.format('%016x', call('INCR', KEYS[3]))
local member = number .. ':' .. ID
call('HSET', KEYS[1], 'id', ID, 'number', number, 'state', 'starting', 'created_at', now,
     'instance', instance, 'owner', worker, 'admitted_at', now, '_attempt', attempt, unpack(ARGV, at + 1))
call('HINCRBY', KEYS[2], 'starting', 1)
call('ZADD', KEYS[4], now, member)
call('ZADD', KEYS[5], now, member)
call('SADD', KEYS[8], ID)
-- An organization's first session is also the first one on its instance.
if call('HINCRBY', KEYS[6], instance, 1) == 1 then call('SADD', KEYS[10], ARGV[at + 4]) end
return {'ok', instance, ''}
"""
)

# ARGV: id, attempt, worker id, host, pid, born, now, organization's limit or 0, queue size or "", queued
# until, number of arguments of the rule, the rule, number of fields that a pending session gets, those fields
# and values, then fields and values that it keeps where it has them. Answers 'of key', and has done nothing,
# if KEYS[28] is not of the API key that the pending session was made with.
ADMIT: Final = (
    NEW_HEAD
    + SESSION
    + _CHOOSE
    + """
local attempt, worker, now = ARGV[2], ARGV[3], ARGV[7]
local rule, at = {}, 11
for _ = 1, tonumber(ARGV[11]) do
    at = at + 1
    rule[#rule + 1] = ARGV[at]
end
local changed, kept = {}, {}
at = at + 1
for _ = 1, tonumber(ARGV[at]) do
    changed[#changed + 1] = ARGV[at + 1]
    at = at + 1
end
for next = at + 1, #ARGV do kept[#kept + 1] = ARGV[next] end

local s = get('state', '_attempt', 'instance', 'promised_until', 'agent', 'organization',
              'stop_requested_at', 'key_id', 'owner')
if s[1] and s[2] == attempt and s[1] ~= 'created' then return {'ok', s[3]} end
if s[1] == 'created' and s[8] and KEYS[28] ~= '{patchbay}:pending:' .. s[6] .. ':' .. s[8] then
    return {'of key', s[8]}
end
if redis.call('EXISTS', KEYS[23]) == 0 then
    redis.call('HSET', KEYS[23], 'host', ARGV[4], 'pid', ARGV[5], 'born', ARGV[6],
               'heard_since', now, 'beat_at', now)
    redis.call('SADD', KEYS[24], worker)
end
local most = tonumber(ARGV[8])
if most > 0 then
    local in_use = redis.call('ZCARD', KEYS[10])
    if in_use >= most then return {'full', in_use, most} end
end
local queued_before, queued, mine = 0, 0, redis.call('ZSCORE', QUEUE, ID)
for _, other in ipairs(redis.call('ZRANGE', QUEUE, 0, -1)) do
    local waits_until = string.match(redis.call('HGET', UNTIL, other) or '0 ', '^%S+')
    if tonumber(waits_until) > tonumber(now) then
        queued = queued + 1
        if not mine or tonumber(redis.call('ZSCORE', QUEUE, other)) < tonumber(mine) then
            queued_before = queued_before + 1
        end
    end
end
local instance, in_use = choose(rule, loads_of_agent(), queued_before)
if not instance then
    local limit = tonumber(rule[4])
    if ARGV[9] == '' then return {'full', in_use, limit} end
    if not mine then
        if queued >= tonumber(ARGV[9]) then return {'full', in_use, limit} end
        mine = redis.call('INCR', NUMBER)
        redis.call('ZADD', QUEUE, mine, ID)
        redis.call('SADD', KEYS[27], changed[2])
    end
    redis.call('HSET', UNTIL, ID, ARGV[10] .. ' ' .. worker)
    return {'queued', in_use, limit, tonumber(mine)}
end
if s[1] then
    if s[1] ~= 'created' or tonumber(s[4]) <= tonumber(now) or s[5] ~= changed[2] or s[6] ~= changed[4]
        or s[7] then
        return {'not pending'}
    end
    redis.call('HSET', SESSION, 'instance', instance)
    become('created', 'starting')
    redis.call('ZREM', EXPIRY, ID)
    redis.call('ZREM', KEYS[28], ID)
    redis.call('HDEL', SESSION, 'call_id', 'stream_id', 'from_number', 'to_number')
    for next = 1, #kept, 2 do redis.call('HSETNX', SESSION, kept[next], kept[next + 1]) end
else
    create('starting', now, instance)
    redis.call('SADD', KEYS[25], changed[4])
    if #kept > 0 then redis.call('HSET', SESSION, unpack(kept)) end
end
redis.call('HSET', SESSION, 'instance', instance, 'owner', worker, 'admitted_at', now, '_attempt', attempt,
           unpack(changed))
redis.call('SADD', OWNED, ID)
if mine or queued > 0 then leave_queue() end
return {'ok', instance}
"""
)

# ARGV: id, attempt, worker id, host, pid, born, now, state, instance, then fields and values. An admission
# that was decided without the store, or that it has lost, or of which it has lost what came after.
RECORD: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', 'owner', 'reason', 'stream_id', 'instance')
leave_queue()
if redis.call('EXISTS', KEYS[23]) == 0 then
    redis.call('HSET', KEYS[23], 'host', ARGV[4], 'pid', ARGV[5], 'born', ARGV[6],
               'heard_since', ARGV[7], 'beat_at', ARGV[7])
    redis.call('SADD', KEYS[24], ARGV[3])
end
local fields = {}
local has_stream = false
for at = 10, #ARGV do
    fields[#fields + 1] = ARGV[at]
    if at % 2 == 0 and ARGV[at] == 'stream_id' then has_stream = true end
end
if s[1] == 'created' then
    redis.call('HSET', SESSION, 'instance', ARGV[9])
    become('created', ARGV[8])
    redis.call('ZREM', EXPIRY, ID)
elseif s[1] == 'failed' and s[2] == ARGV[3] and s[3] == 'gateway_lost' then
    -- Another worker took this one for dead. It is not, and its call goes on: its use is counted at its end.
    local used = redis.call('HMGET', SESSION, 'admitted_at', 'ended_at', 'agent')
    if used[1] then
        local day = string.format('%d', math.floor(tonumber(used[1]) / 86400)) .. ' ' .. used[3]
        local seconds = math.max(0, tonumber(used[2]) - tonumber(used[1]))
        redis.call('HINCRBY', KEYS[22], day .. ' sessions', -1)
        redis.call('HINCRBYFLOAT', KEYS[22], day .. ' seconds', tostring(-seconds))
    end
    redis.call('HDEL', SESSION, 'ended_at', 'reason', 'side', 'detail', 'close_code')
    redis.call('ZREM', OVER, ID)
    redis.call('HSET', SESSION, 'instance', ARGV[9])
    become('failed', ARGV[8])
elseif (s[1] == 'starting' or s[1] == 'running') and (s[2] == ARGV[3] or (has_stream and not s[4])) then
    if s[1] == 'starting' and ARGV[8] == 'running' then become('starting', 'running') end
    if s[5] ~= ARGV[9] then
        unload(s[5])
        redis.call('HINCRBY', LOAD, ARGV[9], 1)
    end
elseif s[1] then
    return {'exists', s[1], s[2] or ''}
else
    create(ARGV[8], ARGV[7], ARGV[9])
end
redis.call('HSET', SESSION, 'instance', ARGV[9], 'owner', ARGV[3], '_attempt', ARGV[2], unpack(fields))
if not redis.call('HGET', SESSION, 'admitted_at') then redis.call('HSET', SESSION, 'admitted_at', ARGV[7]) end
redis.call('SADD', KEYS[25], redis.call('HGET', SESSION, 'organization'))
redis.call('SADD', OWNED, ID)
return {'ok'}
"""
)

# ARGV: id, attempt.
WITHDRAW: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', '_attempt', 'promised_until', 'number', 'key_id')
leave_queue()
if not s[1] or s[2] ~= ARGV[2] or is_over(s[1]) or s[1] == 'created' then
    return {'unchanged', s[1] or 'unknown'}
end
redis.call('SREM', OWNED, ID)
redis.call('ZREM', STOPS, ID)
if s[3] then
    become(s[1], 'created')
    redis.call('HSET', SESSION, 'instance', '', 'owner', '')
    redis.call('HDEL', SESSION, 'admitted_at', '_attempt')
    redis.call('ZADD', EXPIRY, s[3], ID)
    if s[5] then redis.call('ZADD', KEYS[28], s[3], ID) end
    return {'pending'}
end
leave_lists(s[1], s[4] .. ':' .. ID)
unload(redis.call('HGET', SESSION, 'instance'))
redis.call('HINCRBY', COUNTS, s[1], -1)
redis.call('DEL', SESSION)
return {'gone'}
"""
)

# ARGV: id.
LEAVE_QUEUE: Final = HEAD + SESSION + "leave_queue()\nreturn {'ok'}\n"

# ARGV: id, attempt, agent, organization, carrier, worker id, host, pid, born, now, region, stream id,
# call id, from, to: "" for None, but the stream's, which is never None.
ATTACH: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', '_attached', 'agent', 'organization', 'carrier', 'transport', 'stream_id',
              'stop_requested_at', 'owner', 'region', 'call_id', 'instance')
if s[2] == ARGV[2] and s[9] == ARGV[6] then return {'ok', s[12]} end
if s[1] ~= 'starting' or s[3] ~= ARGV[3] or s[4] ~= ARGV[4] or s[5] ~= ARGV[5] or s[6] ~= 'telephony'
    or s[7] or s[8] then
    return {'not pending'}
end
redis.call('HSET', KEYS[23], 'host', ARGV[7], 'pid', ARGV[8], 'born', ARGV[9])
redis.call('HSETNX', KEYS[23], 'heard_since', ARGV[10])
redis.call('HSETNX', KEYS[23], 'beat_at', ARGV[10])
redis.call('SADD', KEYS[24], ARGV[6])
redis.call('HSET', SESSION, '_attached', ARGV[2], '_owner', s[9], '_region', s[10], '_call_id', s[11] or '',
           'owner', ARGV[6], 'region', ARGV[11], 'stream_id', ARGV[12])
if ARGV[13] == '' then redis.call('HDEL', SESSION, 'call_id')
else redis.call('HSET', SESSION, 'call_id', ARGV[13]) end
if ARGV[14] ~= '' then redis.call('HSETNX', SESSION, 'from_number', ARGV[14]) end
if ARGV[15] ~= '' then redis.call('HSETNX', SESSION, 'to_number', ARGV[15]) end
redis.call('SADD', OWNED, ID)
return {'ok', s[12]}
"""
)

# ARGV: id, attempt.
DETACH: Final = (
    HEAD
    + SESSION
    + """
local s = get('state', '_attached', '_owner', '_region', '_call_id')
if s[1] ~= 'starting' or s[2] ~= ARGV[2] then return {'unchanged', s[1] or 'unknown'} end
redis.call('HSET', SESSION, 'owner', s[3], 'region', s[4])
redis.call('HDEL', SESSION, '_attached', 'stream_id')
if s[5] == '' then redis.call('HDEL', SESSION, 'call_id')
else redis.call('HSET', SESSION, 'call_id', s[5]) end
redis.call('SREM', OWNED, ID)
return {'ok'}
"""
)

# ARGV: id, attempt, worker id, the rule.
MOVE: Final = (
    HEAD
    + SESSION
    + _CHOOSE
    + """
local s = get('state', '_moved', 'instance', 'owner', 'stop_requested_at')
if s[2] == ARGV[2] then return {'ok', s[3]} end
if not s[1] or is_over(s[1]) or s[1] == 'created' or s[4] ~= ARGV[3] or s[5] then return {'not pending'} end
local rule = {}
for at = 4, #ARGV do rule[#rule + 1] = ARGV[at] end
local loads = loads_of_agent()
loads[s[3]] = (loads[s[3]] or 1) - 1
if loads[s[3]] == 0 then loads[s[3]] = nil end
local instance, in_use = choose(rule, loads, 0)
if not instance then return {'full', in_use, tonumber(rule[4])} end
unload(s[3])
redis.call('HINCRBY', LOAD, instance, 1)
redis.call('HSET', SESSION, 'instance', instance, '_moved', ARGV[2])
return {'ok', instance}
"""
)
