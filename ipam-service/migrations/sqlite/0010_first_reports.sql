-- Whether a cluster has ever reported all that it holds. Of one that has not, the store cannot tell whether it is
-- new or whether another store, which was lost, knew what it holds. cluster.inventory has three values more:
-- 4: nothing was ever reported; 5: nodes of it have assignments of another store, and this one knows of none;
-- 6: it is being reported for the first time.
--
-- Only adapters report, and each says its uid.
update cluster set inventory = 4 where inventory = 0 and uid = '';
