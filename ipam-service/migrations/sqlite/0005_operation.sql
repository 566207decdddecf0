-- When a cluster was last heard of; 0: never. Written now and then, and no history: a fact.
alter table cluster add column last_seen integer not null default 0;

-- From here to the end the log has no gap. What lies before it is history and cannot be replayed:
-- a restored store does not know which revisions the lost one gave out in between.
alter table meta add column log_start integer not null default 1;
