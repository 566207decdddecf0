-- What ends an allocation ends every interval in which it held an address: that is written once, with its
-- owner in `former_owner`, and not again into rows of `holding` that lie anywhere in the table.

-- Log time of the decision that ended the allocation; 0 where nobody knows, as its intervals have ends of
-- their own. An interval that has none (`holding.end_revision` is 0) goes on while its allocation is there,
-- and ended with it at `former_owner.end_revision` and `end_time`.
alter table former_owner add column end_time integer not null default 0;
