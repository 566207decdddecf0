-- History of an owner, found by its allocations. Their ids grow, so what is indexed by them is only
-- appended to; an index by the names of owners, which come in no order, would be a page of its own to
-- write for nearly every allocation. The names of those that are there are in `allocation`.

-- Allocations that are no more, by their owner. A row goes when neither the log nor an interval tells
-- of the allocation any more.
create table former_owner (
    cluster text not null,
    namespace text not null,
    name text not null,
    allocation_id integer not null,
    primary key (cluster, namespace, name, allocation_id)
) strict, without rowid;

-- The allocation that a row with subject 1 is about; else 0.
alter table change_log add column allocation_id integer not null default 0;

-- Every decision about an allocation but the one that created it: that has its id as revision.
create index change_log_allocation on change_log (allocation_id)
    where subject = 1 and kind <> 1;
drop index change_log_owner;

-- What an allocation held.
create index holding_allocation on holding (allocation_id);
drop index holding_owner;

-- 1 once `former_owner` and `change_log.allocation_id` have what an older version left in the log.
alter table history_meta add column owners_filled integer not null default 0;
