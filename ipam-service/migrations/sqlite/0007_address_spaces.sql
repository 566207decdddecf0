-- What the operator says of address spaces. Decided in the state only; these rows are what it is
-- loaded from. An address space that has none is in use all the same.
--
-- Rows of change_log have subject 13 for an address space.

create table address_space (
    name text primary key not null,
    revision integer not null,
    -- AddressSpace
    entry blob not null
) strict, without rowid;
