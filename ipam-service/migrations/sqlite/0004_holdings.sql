-- Who held which address, from when to when. Written with the change that begins or ends an
-- interval, and kept when the log is compacted.
create table holding (
    -- In order of beginning. Given by the table, which is only ever appended to.
    id integer primary key,
    space text not null,
    address blob not null check (length(address) = 16),
    allocation_id integer not null,
    cluster text not null,
    namespace text not null,
    name text not null,
    -- Incarnation of the owner; '' as long as nobody told it.
    uid text not null,
    -- Pool that the address was drawn from when the interval began.
    pool text not null,
    start_revision integer not null,
    -- Never lower than that of the row before.
    start_time integer not null,
    -- 0 while it goes on.
    end_revision integer not null,
    end_time integer not null
) strict;

-- Holders of an address. Ends with the id, as every index.
create index holding_address on holding (space, address);
-- What an owner held.
create index holding_owner on holding (cluster, namespace, name);
-- What a cluster held, newest first.
create index holding_cluster on holding (cluster);

-- History of a cluster: its allocations, pools, advertisements, and itself.
create index change_log_cluster on change_log (cluster);
-- History of everything but allocations, which are nearly all of the log.
create index change_log_other on change_log (subject, name) where subject <> 1;

-- What is known of the log and of the clock that it was written by. One row.
create table history_meta (
    id integer primary key check (id = 1),
    -- Greatest `min_reader` that a row of the log may have.
    min_reader integer not null,
    -- Wall clock when it was last found to be right, 0 if it never was looked at.
    clock_seen integer not null,
    -- Newest log time that an operator accepted although the wall clock is behind it.
    clock_accepted integer not null,
    -- 1 once `holding` has what an older version left in the log and in the tables.
    holdings_filled integer not null
) strict;

insert into history_meta (id, min_reader, clock_seen, clock_accepted, holdings_filled)
values (1, 1, 0, 0, 0);
