-- Who may answer for a fenced address: a node, under a term of its lease. Stored before anybody is told.
-- A row outlives what was announced by it until the term is surely over.
create table tenure (
    cluster text not null,
    space text not null,
    -- 16 bytes, IPv4 as ::ffff:a.b.c.d
    address blob not null check (length(address) = 16),
    seq integer not null,
    node text not null,
    term integer not null,
    -- Another one each time that somebody is named, greater than any before.
    epoch integer not null,
    primary key (cluster, space, address)
) strict, without rowid;
