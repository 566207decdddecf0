-- Routers that announcers have a BGP session with.
create table bgp_peer (
    -- Empty: of every cluster.
    cluster text not null,
    name text not null,
    revision integer not null,
    -- BgpPeer, without its password
    entry blob not null,
    -- Beside the entry, so that it is in no log and in no export that was not asked for it. Empty: there
    -- is none, or (with a `password_revision` in the entry) it is to be set again.
    password text not null,
    primary key (cluster, name)
) strict, without rowid;

-- How BFD watches sessions.
create table bfd_profile (
    cluster text not null,
    name text not null,
    revision integer not null,
    -- BfdProfile
    entry blob not null,
    primary key (cluster, name)
) strict, without rowid;

-- Rows of change_log have subject 14 for a BGP peer, 15 for a BFD profile.
