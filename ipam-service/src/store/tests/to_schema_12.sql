-- Takes migrations 13 to 15 back.
begin;
delete from held_address where group_key like 'a%' and not exists (
    select 1 from allocation where id = cast(substr(group_key, 2) as integer));
update holding set end_revision = gone.end_revision, end_time = gone.end_time from former_owner gone
    where holding.end_revision = 0 and gone.cluster = holding.cluster
        and gone.namespace = holding.namespace and gone.name = holding.name
        and gone.allocation_id = holding.allocation_id;
alter table former_owner drop column end_time;
delete from _sqlx_migrations where version in (13, 14, 15);
commit;
