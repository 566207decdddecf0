-- Takes migration 9 back, after the later ones.
begin;
create table held_address_8 (
    space text not null,
    address blob not null check (length(address) = 16),
    cluster text not null,
    group_key text not null,
    backend_key text not null,
    primary key (space, address),
    unique (space, address, cluster, group_key, backend_key)
) strict, without rowid;
insert into held_address_8 select * from held_address;
create table allocation_address_8 (
    space text not null,
    address blob not null,
    allocation_id integer not null,
    cluster text not null,
    group_key text not null,
    backend_key text not null,
    primary key (space, address, allocation_id),
    foreign key (space, address, cluster, group_key, backend_key)
        references held_address_8 (space, address, cluster, group_key, backend_key)
) strict, without rowid;
insert into allocation_address_8
    select space, address, allocation_id, cluster, group_key, backend_key
    from allocation_address join held_address using (space, address);
create table allocation_port_8 (
    space text not null,
    address blob not null,
    protocol integer not null,
    port integer not null check (port between 1 and 65535),
    allocation_id integer not null,
    primary key (space, address, protocol, port),
    foreign key (space, address, allocation_id)
        references allocation_address_8 (space, address, allocation_id)
) strict, without rowid;
insert into allocation_port_8 select * from allocation_port;
drop table allocation_port;
drop table allocation_address;
drop table held_address;
alter table held_address_8 rename to held_address;
alter table allocation_address_8 rename to allocation_address;
alter table allocation_port_8 rename to allocation_port;
create table change_address (
    space text not null,
    address blob not null,
    revision integer not null,
    primary key (space, address, revision)
) strict, without rowid;
alter table former_owner drop column end_revision;
drop index change_log_allocation;
create index change_log_allocation on change_log (allocation_id)
    where subject = 1 and kind <> 1;
delete from _sqlx_migrations where version = 9;
commit;
