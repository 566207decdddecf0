-- What keeps an address from being given away although nobody holds it.

-- Addresses that are kept, for an owner or for nobody.
create table reservation (
    space text not null,
    name text not null,
    revision integer not null,
    -- Reservation
    entry blob not null,
    primary key (space, name)
) strict, without rowid;

-- Every range of addresses that may not be given to just anybody, by reason. Several reasons can
-- stand for one address, each in a row of its own.
create table unavailable (
    space text not null,
    first blob not null check (length(first) = 16),
    last blob not null check (length(last) = 16 and last >= first),
    -- 1 reserved, 2 draining, 3 reuse delay, 4 quarantined.
    reason integer not null,
    -- Whose range it is, exactly when reserved. State is loaded from the reservation; this row is
    -- compared with it.
    reservation text,
    -- Nodes that may still answer for the address, exactly when draining.
    awaited blob references awaited_nodes (id),
    -- Unavailable; null when reserved.
    entry blob,
    primary key (space, first, reason),
    check ((reason = 1) = (reservation is not null)),
    check ((reason = 1) = (entry is null)),
    check ((reason = 2) = (awaited is not null)),
    foreign key (space, reservation) references reservation (space, name)
) strict, without rowid;

-- Parents find their rows by these, when they go.
create index unavailable_reservation on unavailable (space, reservation)
    where reservation is not null;
create index unavailable_awaited on unavailable (awaited) where awaited is not null;

-- Sets of nodes that rows of unavailable wait for: many addresses wait for the same.
create table awaited_nodes (
    -- NodeSet.id, big endian
    id blob not null primary key check (length(id) = 8),
    -- NodeSet
    entry blob not null
) strict, without rowid;
