-- Limits that the operator sets. Decided in the state only; these rows are what it is loaded from.
--
-- Rows of change_log have subject 12 for a quota.

-- How many addresses may be held, by whom, of what.
create table quota (
    name text primary key not null,
    revision integer not null,
    -- Quota, without usage
    entry blob not null
) strict, without rowid;
