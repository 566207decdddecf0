-- Who holds an address alone is told by held_address: its primary key keeps everybody else out, and its
-- group key has the id. Rows of allocation_address and allocation_port are for addresses that several may
-- hold, and keep apart what they hold.
--
-- What goes here repeats what allocation has.

delete from allocation_port where (space, address) in
    (select space, address from held_address where group_key like 'a%');
delete from allocation_address where group_key like 'a%';
