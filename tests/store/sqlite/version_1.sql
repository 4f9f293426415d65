-- A session store of version 1, as the first release made it, with one call that runs and one that is over.
CREATE TABLE session (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        agent TEXT NOT NULL,
        organization TEXT NOT NULL,
        region TEXT NOT NULL,
        carrier TEXT NOT NULL,
        instance TEXT NOT NULL,
        owner TEXT NOT NULL,
        call_id TEXT,
        stream_id TEXT,
        from_number TEXT,
        to_number TEXT,
        state TEXT NOT NULL CHECK (state IN ('created', 'starting', 'running', 'ending', 'ended', 'failed', 'canceled')),
        created_at REAL NOT NULL,
        started_at REAL,
        first_agent_sound_at REAL,
        ended_at REAL,
        frames_in INTEGER NOT NULL DEFAULT 0,
        bytes_in INTEGER NOT NULL DEFAULT 0,
        frames_out INTEGER NOT NULL DEFAULT 0,
        bytes_out INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        side TEXT,
        detail TEXT,
        close_code INTEGER,
        CHECK ((ended_at IS NOT NULL) = (state IN ('ended', 'failed', 'canceled')))
    );
CREATE INDEX session_active ON session (agent, instance) WHERE ended_at IS NULL;
CREATE INDEX session_agent ON session (agent);
CREATE INDEX session_organization ON session (organization);
CREATE TABLE owner (
        id TEXT PRIMARY KEY,
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        born INTEGER NOT NULL,
        heard_since REAL NOT NULL,
        beat_at REAL NOT NULL
    ) WITHOUT ROWID;
CREATE TABLE tally (state TEXT PRIMARY KEY, sessions INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER session_over AFTER UPDATE OF ended_at ON session
    WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL
    BEGIN
        UPDATE tally SET sessions = sessions + 1 WHERE state = new.state;
    END;
INSERT INTO tally (state, sessions) VALUES ('ended', 1), ('failed', 0), ('canceled', 0);
INSERT INTO session (
    id, agent, organization, region, carrier, instance, owner, call_id, from_number,
    state, created_at, started_at, ended_at, frames_in, bytes_in, reason, side, detail, close_code
) VALUES
    ('0f3c54d0-7a60-4d93-9d44-6e2d4c1f9a01', 'support.acme', 'acme', 'us-west', 'twilio',
     'http://127.0.0.1:8080', 'earlier', 'CA0123', '+15551230000',
     'ended', 900.0, 900.5, 960.0, 3000, 480000, 'caller_hangup', 'caller', '', 1000),
    ('0f3c54d0-7a60-4d93-9d44-6e2d4c1f9a02', 'support.acme', 'acme', 'us-west', 'plivo',
     'http://127.0.0.1:8080', 'earlier', 'CA0456', NULL,
     'running', 990.0, 990.5, NULL, 0, 0, NULL, NULL, NULL, NULL);
INSERT INTO owner VALUES ('earlier', 'another machine', 4711, 0, 980.0, 999.0);
PRAGMA journal_mode = WAL;
PRAGMA application_id = 1346523993;
PRAGMA user_version = 1;
