-- The address book of Pharos.
--
-- Texts compare as bytes. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. Times are microseconds
-- since 1970-01-01 UTC. An absent namespace, and the cluster of an operator's object, are ''.
-- Columns named `entry` hold the encoded message of package pharos.v1 that the comment names.

-- What this database is, and how far it has come. One row.
create table meta (
    id integer primary key check (id = 1),
    -- Random name of the database: another one means lost, replaced or restored.
    store_id text not null,
    -- Term of the writer. Every transaction checks that it is still its own.
    epoch integer not null,
    -- Of the newest row of change_log, 0 while there is none.
    revision integer not null,
    -- Of the newest row among the facts (node, backends, placement).
    fact_seq integer not null,
    create_time integer not null
) strict;

-- Clusters (or tenants), known since their first contact.
create table cluster (
    name text not null primary key,
    -- Incarnation; '' outside Kubernetes.
    uid text not null,
    -- 0 complete, 1 expected, 2 reporting for the first time, 3 reporting again.
    inventory integer not null,
    -- Highest fence that its adapters have used.
    fence integer not null,
    create_time integer not null,
    revision integer not null
) strict, without rowid;

-- Named views on an address space.
create table pool (
    space text not null,
    cluster text not null,
    name text not null,
    revision integer not null,
    -- Pool
    entry blob not null,
    primary key (space, cluster, name)
) strict, without rowid;

-- Which pools go out how, and from which nodes.
create table advertisement (
    cluster text not null,
    name text not null,
    revision integer not null,
    -- Advertisement
    entry blob not null,
    primary key (cluster, name)
) strict, without rowid;

-- Claims and what they got. State is loaded from here alone; the tables below repeat parts of it
-- as constraints.
create table allocation (
    -- Revision at which it was created.
    id integer primary key,
    cluster text not null,
    namespace text not null,
    name text not null,
    space text not null,
    -- Pool that the addresses come from, '' when pending; and the cluster of that pool.
    pool text not null,
    pool_cluster text not null,
    -- 1 assigned, 2 pending, 3 assigned under an earlier claim.
    state integer not null,
    revision integer not null,
    -- Allocation
    entry blob not null,
    -- Claim under which the addresses are held, exactly when state is 3.
    held_claim blob,
    -- One owner, one claim.
    unique (cluster, namespace, name)
) strict;

-- Every address that is held, and by which group. An address belongs to one cluster and one
-- sharing group: a second one cannot be inserted.
create table held_address (
    space text not null,
    address blob not null check (length(address) = 16),
    cluster text not null,
    -- 'k' and the sharing key; or 'a' and the id of the only allocation that holds the address.
    group_key text not null,
    backend_key text not null,
    primary key (space, address),
    -- What allocation_address refers to.
    unique (space, address, cluster, group_key, backend_key)
) strict, without rowid;

-- Who holds an address. Several allocations of one group may.
create table allocation_address (
    space text not null,
    address blob not null,
    allocation_id integer not null,
    cluster text not null,
    group_key text not null,
    backend_key text not null,
    primary key (space, address, allocation_id),
    foreign key (space, address, cluster, group_key, backend_key)
        references held_address (space, address, cluster, group_key, backend_key)
) strict, without rowid;

-- Ports in use on an address: no two holders have one in common.
create table allocation_port (
    space text not null,
    address blob not null,
    -- 6 TCP, 17 UDP, 132 SCTP (IANA protocol numbers).
    protocol integer not null,
    port integer not null check (port between 1 and 65535),
    allocation_id integer not null,
    primary key (space, address, protocol, port),
    foreign key (space, address, allocation_id)
        references allocation_address (space, address, allocation_id)
) strict, without rowid;

-- Every decision, in order. Only ever appended to.
create table change_log (
    revision integer primary key,
    -- Never lower than that of the row before.
    time integer not null,
    -- Who asked for it.
    actor text not null,
    request_id text not null,
    -- 1 created, 2 updated, 3 deleted.
    kind integer not null,
    -- 1 allocation, 2 pool, 3 advertisement, 4 cluster.
    subject integer not null,
    cluster text not null,
    namespace text not null,
    name text not null,
    -- Oldest version of the service that understands this row, as a number that grows.
    min_reader integer not null,
    -- Change
    entry blob not null
) strict;

-- History of an owner.
create index change_log_owner on change_log (cluster, namespace, name, revision)
    where subject = 1;

-- History of an address: every decision before or after which it was held.
create table change_address (
    space text not null,
    address blob not null,
    revision integer not null,
    primary key (space, address, revision)
) strict, without rowid;

-- Facts: what is known about a node.
create table node (
    cluster text not null,
    node text not null,
    seq integer not null,
    -- SyncFactsRequest: the last that an adapter said of the node; null if none ever did.
    reported blob,
    -- AnnouncerReport.Hello with labels and member_endpoint, null while no announcer has called.
    announcer blob,
    primary key (cluster, node)
) strict, without rowid;

-- Facts: which nodes can take in traffic for an owner.
create table backends (
    cluster text not null,
    namespace text not null,
    name text not null,
    seq integer not null,
    -- BackendsFact
    entry blob not null,
    primary key (cluster, namespace, name)
) strict, without rowid;

-- The nodes chosen for an election group. They rest on what was chosen before, so they are kept.
create table placement (
    -- Id of the oldest allocation of the group.
    group_id integer primary key,
    cluster text not null,
    seq integer not null,
    -- NodeSet, in order of preference
    entry blob not null
) strict;
