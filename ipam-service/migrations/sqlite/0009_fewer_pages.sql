-- What a claim touches lies anywhere in the tables, and each place is a page to write. This takes away
-- what can be told from what stays.

-- That all holders of an address are of one group is seen to when a holder is entered: an index over
-- whole rows for foreign keys to refer to is not needed. So only the key is referred to, and what
-- held_address has is not repeated by the holders.
-- Every address that is held, and by which group. An address belongs to one cluster and one sharing
-- group: a second one cannot be inserted.
create table held_address_9 (
    space text not null,
    address blob not null check (length(address) = 16),
    cluster text not null,
    -- 'k' and the sharing key; or 'a' and the id of the only allocation that holds the address.
    group_key text not null,
    backend_key text not null,
    primary key (space, address)
) strict, without rowid;
insert into held_address_9 (space, address, cluster, group_key, backend_key)
    select space, address, cluster, group_key, backend_key from held_address;

-- Who holds an address that several allocations of one group may hold.
create table allocation_address_9 (
    space text not null,
    address blob not null,
    allocation_id integer not null,
    primary key (space, address, allocation_id),
    foreign key (space, address) references held_address_9 (space, address)
) strict, without rowid;
insert into allocation_address_9 (space, address, allocation_id)
    select space, address, allocation_id from allocation_address;

-- Ports in use on such an address: no two holders have one in common.
create table allocation_port_9 (
    space text not null,
    address blob not null,
    -- 6 TCP, 17 UDP, 132 SCTP (IANA protocol numbers).
    protocol integer not null,
    port integer not null check (port between 1 and 65535),
    allocation_id integer not null,
    primary key (space, address, protocol, port),
    foreign key (space, address, allocation_id)
        references allocation_address_9 (space, address, allocation_id)
) strict, without rowid;
insert into allocation_port_9 (space, address, protocol, port, allocation_id)
    select space, address, protocol, port, allocation_id from allocation_port;

drop table allocation_port;
drop table allocation_address;
drop table held_address;
alter table held_address_9 rename to held_address;
alter table allocation_address_9 rename to allocation_address;
alter table allocation_port_9 rename to allocation_port;

-- The history of an address is told by who held it, from which decision to which.
drop table change_address;

-- The decision that ended the allocation; 0 where the log did not have it any more.
alter table former_owner add column end_revision integer not null default 0;
update former_owner set end_revision = past.revision from change_log past
    where past.subject = 1 and past.kind = 3 and former_owner.cluster = past.cluster
        and former_owner.namespace = past.namespace and former_owner.name = past.name
        and former_owner.allocation_id = past.allocation_id;

-- Decisions about an allocation between the first, which has its id as revision, and the last.
drop index change_log_allocation;
create index change_log_allocation on change_log (allocation_id)
    where subject = 1 and kind = 2;
