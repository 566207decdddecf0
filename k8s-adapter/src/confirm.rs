//! Whether pools and advertisements are known as they are. A watch may stand still without a word,
//! and what it has brought until then is then an old set, which must take the place of no newer one
//! that another replica has handed over.
//!
//! And whether somebody declared it: objects of a kind go one by one when its definition goes, and a
//! definition that is applied again has none. That there is none counts only under the definition that had
//! some.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Resource};

use crate::context::Context;
use crate::crd::{
    BFDProfile, BGPAdvertisement, BGPPeer, BgpSpec, Community, CommunitySpec, IPAddressPool,
    L2Advertisement, L2Spec, PeerSpec, PoolSpec, ProfileSpec,
};
use crate::identity::{self, IdentityError};
use crate::index::{Declares, Kind, PoolState};
use crate::kubernetes::{KubeError, within};
use crate::policy::{Declared, Known, Objects};
use crate::watches::kinds::Declaration;
use crate::watches::{MISSING, Watched};
use crate::world::World;

/// Longest time for the lists: three calls, one after the other, of an API server that is slow and still
/// counts as there. Nobody is hurt by a set that is handed over later.
const LISTS: Duration = Duration::from_secs(10);

/// Of a kind that is handed over with another one.
const LOST: &str = "the definition of BFDProfiles or of Communities went, or was applied again, with all objects of that \
                    kind: nothing is handed over until there is one, or this process starts again";

/// Why there is no live view.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    #[error("no list within {} s", LISTS.as_secs())]
    Slow,
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What the API server has now.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    pools: Listed<Declared<PoolSpec>>,
    advertisements: Listed<Declared<L2Spec>>,
    bgp: LiveBgp,
}

/// Of a kind about BGP; `None` where nothing of it is declared: most clusters have none of them.
type OfBgp<S> = Option<Listed<Declared<S>>>;

/// Two kinds that are handed over together; or why one of them could not be listed, which concerns nothing
/// else.
type Pair<S, T> = Result<(OfBgp<S>, OfBgp<T>), String>;

#[derive(Debug, Clone, PartialEq)]
struct LiveBgp {
    advertisements: Pair<BgpSpec, CommunitySpec>,
    peers: Pair<PeerSpec, ProfileSpec>,
}

#[derive(Debug, Clone, PartialEq)]
struct Listed<T> {
    /// `None` for a kind that the API server does not know.
    objects: Option<Vec<T>>,
    definition: Definition,
}

/// The definition of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Definition {
    /// It has this uid.
    Lives(String),
    /// It is being deleted, or is not there.
    Goes,
    /// It cannot be read, because of this.
    Unknown(String),
}

/// What is known of a kind, beside what the API server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// It is as it is known.
    Current,
    /// Nothing is declared.
    Silent,
    /// It is not; what is missing is on its way here, and will be looked at when it arrives.
    Changing,
    /// It may be so without anybody having said so, because of this.
    Doubtful(String),
}

impl Live {
    /// Reads it, from no cache of this process.
    pub async fn read(context: &Context) -> Result<Self, ConfirmError> {
        let pools = read::<DeserializeGuard<IPAddressPool>>(context);
        let advertisements = read::<DeserializeGuard<L2Advertisement>>(context);
        let all = async { tokio::try_join!(pools, advertisements) };
        let lists = tokio::time::timeout(LISTS, all);
        let (lists, bgp) = tokio::join!(lists, LiveBgp::read(context));
        let (pools, advertisements) = lists.map_err(|_| ConfirmError::Slow)??;
        // They came from the same cluster as everything else.
        identity::verify(context).await?;
        let declared =
            |pools: Vec<PoolState>| pools.into_iter().map(|pool| pool.declared).collect();
        Ok(Self {
            pools: Listed {
                objects: pools.objects.map(declared),
                definition: pools.definition,
            },
            advertisements,
            bgp,
        })
    }

    /// Of pools only what people write counts: their status changes all the time.
    pub fn pools(&self, world: &mut World) -> View {
        let known = world.index.pools().map(|pool| &pool.declared);
        let same = are_same(self.pools.objects.as_deref(), known);
        self.pools.view(Kind::Pools, same, world)
    }

    /// The same of layer 2 advertisements.
    pub fn advertisements(&self, world: &mut World) -> View {
        let known = world.index.objects().l2;
        let same = are_same(self.advertisements.objects.as_deref(), known.iter());
        self.advertisements
            .view(Kind::L2Advertisements, same, world)
    }
}

impl Live {
    /// The same of what is said to BGP peers, and of the names that it uses.
    pub fn bgp_advertisements(&self, world: &mut World) -> View {
        let (advertisements, communities) = match &self.bgp.advertisements {
            Ok(pair) => pair,
            Err(why) => return View::Doubtful(why.clone()),
        };
        let views = [
            view_of(advertisements.as_ref(), world, |it| it.bgp),
            view_of(communities.as_ref(), world, |it| it.communities),
        ];
        together(views)
    }

    /// The same of BGP peers, and of how BFD watches them.
    pub fn bgp_peers(&self, world: &mut World) -> View {
        let (peers, profiles) = match &self.bgp.peers {
            Ok(pair) => pair,
            Err(why) => return View::Doubtful(why.clone()),
        };
        let views = [
            view_of(peers.as_ref(), world, |it| it.peers),
            view_of(profiles.as_ref(), world, |it| it.profiles),
        ];
        together(views)
    }
}

impl LiveBgp {
    async fn read(context: &Context) -> Self {
        let advertisements = async {
            tokio::try_join!(
                read_declared::<BGPAdvertisement>(context),
                read_declared::<Community>(context),
            )
        };
        let peers = async {
            tokio::try_join!(
                read_declared::<BGPPeer>(context),
                read_declared::<BFDProfile>(context),
            )
        };
        let (advertisements, peers) = tokio::join!(in_time(advertisements), in_time(peers));
        Self {
            advertisements,
            peers,
        }
    }
}

async fn in_time<T>(lists: impl Future<Output = Result<T, KubeError>>) -> Result<T, String> {
    match tokio::time::timeout(LISTS, lists).await {
        Ok(lists) => lists.map_err(|error| error.to_string()),
        Err(_) => Err(ConfirmError::Slow.to_string()),
    }
}

/// `None` for a kind of which nothing is declared.
async fn read_declared<K>(context: &Context) -> Result<Option<Listed<Declared<K::Spec>>>, KubeError>
where
    K: Declaration + Resource<Scope = NamespaceResourceScope> + Send + Sync,
{
    if !context.world().index.declares(K::Spec::KIND) {
        return Ok(None);
    }
    read::<DeserializeGuard<K>>(context).await.map(Some)
}

/// The view of a kind, and whether nothing is said of it because nothing is declared.
fn view_of<S: Declares + PartialEq + 'static>(
    live: Option<&Listed<Declared<S>>>,
    world: &mut World,
    known: impl for<'a> FnOnce(Objects<'a>) -> Known<'a, S>,
) -> (View, bool) {
    let is_declared = world.index.declares(S::KIND);
    // One whose definition is not there any more was declared, and nobody took its objects back.
    let was_declared = is_declared || world.definitions.contains_key(&S::KIND);
    let is_known = world.index.has(S::KIND) || world.absent.contains(&S::KIND);
    let Some(live) = live else {
        // What is declared came a moment ago, and what is not known yet is about to come.
        let view = match is_known && !is_declared {
            true => View::Silent,
            false => View::Changing,
        };
        return (view, !was_declared);
    };
    let known = known(world.index.objects());
    let same = are_same(live.objects.as_deref(), known.iter());
    (live.view(S::KIND, same, world), !was_declared)
}

/// One view of a kind and of one that it refers to, which are handed over together. Where nothing of the kind
/// itself is declared, nothing is handed over, whatever there is of the other: that there is none would be a
/// set, and take everything away. One that is silent although it was declared keeps both as they are: nobody
/// took its objects back.
fn together([(own, _), (other, is_undeclared)]: [(View, bool); 2]) -> View {
    match (own, other) {
        (View::Changing, _) | (_, View::Changing) => View::Changing,
        (View::Doubtful(why), _) | (_, View::Doubtful(why)) => View::Doubtful(why),
        (View::Silent, _) => View::Silent,
        (View::Current, View::Silent) if !is_undeclared => View::Doubtful(LOST.to_owned()),
        (View::Current, View::Silent | View::Current) => View::Current,
    }
}

impl<T> Listed<T> {
    /// Notes the definition of what is there, too.
    fn view(&self, kind: Kind, same: bool, world: &mut World) -> View {
        if !world.index.declares(kind) {
            return View::Silent;
        }
        let Some(objects) = &self.objects else {
            return View::Doubtful(MISSING.to_owned());
        };
        let former = world.definitions.get(&kind);
        match &self.definition {
            Definition::Goes => {
                View::Doubtful("the definition of this kind is being deleted".to_owned())
            }
            _ if !same => View::Changing,
            Definition::Lives(uid) if !objects.is_empty() => {
                world.definitions.insert(kind, uid.clone());
                View::Current
            }
            Definition::Lives(uid) if former == Some(uid) => View::Current,
            // One that was applied again: nobody took anything back.
            Definition::Lives(_) => View::Silent,
            Definition::Unknown(_) if !objects.is_empty() => View::Current,
            Definition::Unknown(why) => View::Doubtful(format!(
                "there is none, and the definition cannot be read: {why}"
            )),
        }
    }
}

/// `known` comes in the order of names. Lists come in whatever order the API server's store has.
fn are_same<'a, S: PartialEq + 'a>(
    live: Option<&[Declared<S>]>,
    known: impl Iterator<Item = &'a Declared<S>>,
) -> bool {
    live.is_some_and(|live| {
        let mut live: Vec<&Declared<S>> = live.iter().collect();
        live.sort_by(|one, other| one.name.cmp(&other.name));
        known.eq(live)
    })
}

/// All objects of a kind, from no cache of this process; `None` if the API server does not know the kind.
pub async fn list<K>(context: &Context) -> Result<Option<Vec<K::Kept>>, KubeError>
where
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let api = Api::<K>::namespaced(context.kube.calls.clone(), &context.namespace);
    match within(api.list(&ListParams::default())).await {
        Ok(list) => Ok(Some(list.items.into_iter().filter_map(K::keep).collect())),
        Err(KubeError::Failed(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// That there are objects proves that the definition before them was theirs, and that they are all, that
/// it does not go afterwards either; that there are none proves only one that is there afterwards.
async fn read<K>(context: &Context) -> Result<Listed<K::Kept>, KubeError>
where
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let before = definition::<K>(context).await;
    let objects = list::<K>(context).await?;
    let after = definition::<K>(context).await;
    let definition = match &objects {
        Some(objects) if !objects.is_empty() && after != Definition::Goes => before,
        Some(_) | None => after,
    };
    Ok(Listed {
        objects,
        definition,
    })
}

async fn definition<K: Watched>(context: &Context) -> Definition {
    let api = Api::<CustomResourceDefinition>::all(context.kube.calls.clone());
    let name = format!("{}.{}", K::plural(&()), K::group(&()));
    match within(api.get_metadata(&name)).await {
        Ok(found) => match found.metadata.uid {
            Some(uid) if found.metadata.deletion_timestamp.is_none() => Definition::Lives(uid),
            Some(_) | None => Definition::Goes,
        },
        Err(KubeError::Failed(kube::Error::Api(status))) if status.code == 404 => Definition::Goes,
        Err(error) => Definition::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::claim::Settings;

    fn pool(name: &str, range: &str) -> PoolState {
        let spec = serde_json::from_value(serde_json::json!({ "addresses": [range] }));
        PoolState {
            uid: "u".to_owned(),
            declared: Declared {
                name: name.to_owned(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                spec: Ok(spec.expect("a spec")),
            },
            status: None,
        }
    }

    fn live(pools: Option<&[PoolState]>, definition: &Definition) -> Live {
        Live {
            pools: Listed {
                objects: pools.map(|pools| pools.iter().map(|it| it.declared.clone()).collect()),
                definition: definition.clone(),
            },
            advertisements: Listed {
                objects: Some(Vec::new()),
                definition: definition.clone(),
            },
            bgp: LiveBgp {
                advertisements: Ok((None, None)),
                peers: Ok((None, None)),
            },
        }
    }

    fn lives(uid: &str) -> Definition {
        Definition::Lives(uid.to_owned())
    }

    fn world() -> World {
        World::new(Settings {
            cluster: "east".to_owned(),
            lb_class: None,
            address_space: "default".to_owned(),
            ignore_exclude_lb: false,
        })
    }

    #[test]
    fn a_view_is_current_if_all_that_it_declares_is_as_it_is_now() {
        let (a, b) = (pool("a", "192.0.2.0/28"), pool("b", "198.51.100.0/28"));
        let mut world = world();
        world.index.replace_pools(vec![a.clone(), b.clone()]);
        let edited = pool("b", "198.51.100.0/29");
        for (pools, expected) in [
            (&[a.clone(), b.clone()][..], View::Current),
            (&[b.clone(), a.clone()], View::Current),
            (&[a.clone(), edited], View::Changing),
            (std::slice::from_ref(&a), View::Changing),
            (&[], View::Changing),
        ] {
            let live = live(Some(pools), &lives("d"));
            assert_eq!(live.pools(&mut world), expected, "{pools:?}");
            // Each kind by itself.
            assert_eq!(live.advertisements(&mut world), View::Silent);
        }
        let mut used = a.clone();
        used.status = Some(crate::crd::PoolStatus::default());
        world.index.apply_pool(used);
        let live = live(Some(&[a, b]), &lives("d"));
        assert_eq!(live.pools(&mut world), View::Current, "a status counts");
    }

    #[test]
    fn what_is_not_declared_need_not_be_there() {
        let mut world = world();
        let gone = live(None, &Definition::Goes);
        assert_eq!(gone.pools(&mut world), View::Silent);
        world.index.replace_pools(Vec::new());
        assert_eq!(gone.pools(&mut world), View::Silent);
        world.index.apply_pool(pool("a", "192.0.2.0/28"));
        assert!(matches!(gone.pools(&mut world), View::Doubtful(_)));
        // The watch found out, too.
        world.index.undeclare(Kind::Pools);
        assert_eq!(gone.pools(&mut world), View::Silent);
    }

    #[test]
    fn none_counts_only_under_the_definition_that_had_some() {
        let a = pool("a", "192.0.2.0/28");
        let mut world = world();
        world.index.replace_pools(vec![a.clone()]);
        let some = live(Some(std::slice::from_ref(&a)), &lives("d"));
        assert_eq!(some.pools(&mut world), View::Current);
        // All of it was deleted, one by one.
        world.index.delete_pool("a");
        assert_eq!(some.pools(&mut world), View::Changing);
        for (definition, counts) in [
            (lives("d"), true),
            (lives("another"), false),
            (Definition::Goes, false),
            (Definition::Unknown("forbidden".to_owned()), false),
        ] {
            let view = live(Some(&[]), &definition).pools(&mut world);
            assert_eq!(view == View::Current, counts, "{definition:?}: {view:?}");
        }
    }

    #[test]
    fn none_counts_also_if_the_last_one_went_unseen() {
        let a = pool("a", "192.0.2.0/28");
        let mut world = world();
        world.index.replace_pools(vec![a.clone()]);
        let some = live(Some(std::slice::from_ref(&a)), &lives("d"));
        assert_eq!(some.pools(&mut world), View::Current);
        // The watch was lost, and began anew with a list.
        world.index.replace_pools(Vec::new());
        let none = |definition| live(Some(&[]), &definition);
        assert_eq!(none(lives("d")).pools(&mut world), View::Current);
        let another = none(lives("another")).pools(&mut world);
        assert_eq!(another, View::Silent);
        let view = none(Definition::Goes).pools(&mut world);
        assert!(matches!(view, View::Doubtful(_)), "{view:?}");
    }

    #[test]
    fn what_a_definition_leaves_while_it_goes_is_declared_by_nobody() {
        let a = pool("a", "192.0.2.0/28");
        let mut world = world();
        world.index.replace_pools(vec![a.clone()]);
        for (definition, counts) in [
            (Definition::Goes, false),
            (Definition::Unknown("forbidden".to_owned()), true),
            (lives("another"), true),
        ] {
            let view = live(Some(std::slice::from_ref(&a)), &definition).pools(&mut world);
            assert_eq!(view == View::Current, counts, "{definition:?}: {view:?}");
        }
    }

    fn peer(name: &str) -> Declared<PeerSpec> {
        Declared {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: Ok(PeerSpec::default()),
        }
    }

    #[test]
    fn peers_are_handed_over_without_profiles_but_not_when_those_went_with_their_definition() {
        let mut world = world();
        let listed = |definition: &str, peers: Vec<Declared<PeerSpec>>| Listed {
            objects: Some(peers),
            definition: lives(definition),
        };
        let nothing = live(None, &Definition::Goes);
        assert_eq!(nothing.bgp_peers(&mut world), View::Changing, "not listed");
        world.index.replace_declared::<PeerSpec>(Vec::new());
        assert_eq!(nothing.bgp_peers(&mut world), View::Changing, "not listed");
        world.absent.insert(Kind::BfdProfiles);
        assert_eq!(nothing.bgp_peers(&mut world), View::Silent);
        world.index.replace_declared::<ProfileSpec>(Vec::new());
        world.index.replace_declared::<BgpSpec>(Vec::new());
        world.index.replace_declared::<CommunitySpec>(Vec::new());
        world.index.apply_declared(peer("a"));
        // It came after the list was made.
        assert_eq!(nothing.bgp_peers(&mut world), View::Changing);
        let mut now = nothing.clone();
        let peers = Some(listed("d", vec![peer("a")]));
        now.bgp.peers = Ok((peers.clone(), None));
        assert_eq!(now.bgp_peers(&mut world), View::Current);
        assert_eq!(now.bgp_advertisements(&mut world), View::Silent);

        let profile = Declared {
            name: "fast".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: Ok(ProfileSpec::default()),
        };
        world.index.apply_declared(profile.clone());
        let mut with = |profiles: Vec<Declared<ProfileSpec>>, definition, world: &mut World| {
            let listed = Listed {
                objects: Some(profiles),
                definition,
            };
            now.bgp.peers = Ok((peers.clone(), Some(listed)));
            now.bgp_peers(world)
        };
        assert_eq!(with(vec![profile], lives("p"), &mut world), View::Current);
        world.index.delete_declared::<ProfileSpec>("fast");
        assert_eq!(with(Vec::new(), lives("p"), &mut world), View::Current);
        for definition in [lives("another"), Definition::Goes] {
            let view = with(Vec::new(), definition, &mut world);
            assert!(matches!(view, View::Doubtful(_)), "{view:?}");
        }
        // The watch has seen that it went.
        world.index.undeclare(Kind::BfdProfiles);
        now.bgp.peers = Ok((peers, None));
        let view = now.bgp_peers(&mut world);
        assert!(matches!(view, View::Doubtful(_)), "{view:?}");
    }

    #[test]
    fn a_kind_about_bgp_that_cannot_be_listed_concerns_nothing_else() {
        let a = pool("a", "192.0.2.0/28");
        let mut world = world();
        world.index.replace_pools(vec![a.clone()]);
        let mut now = live(Some(std::slice::from_ref(&a)), &lives("d"));
        now.bgp.peers = Err("forbidden".to_owned());
        assert_eq!(now.pools(&mut world), View::Current);
        let view = now.bgp_peers(&mut world);
        assert_eq!(view, View::Doubtful("forbidden".to_owned()));
    }

    #[test]
    fn what_is_only_referred_to_makes_no_set_that_takes_all_away() {
        let mut world = world();
        world.index.replace_declared::<PeerSpec>(Vec::new());
        world.index.replace_declared::<BgpSpec>(Vec::new());
        let fast = Declared {
            name: "fast".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: Ok(ProfileSpec::default()),
        };
        let names = Declared {
            name: "names".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            spec: Ok(CommunitySpec::default()),
        };
        world.index.replace_declared(vec![fast.clone()]);
        world.index.replace_declared(vec![names.clone()]);
        let mut now = live(None, &Definition::Goes);
        let profiles = Listed {
            objects: Some(vec![fast]),
            definition: lives("p"),
        };
        now.bgp.peers = Ok((None, Some(profiles.clone())));
        let communities = Listed {
            objects: Some(vec![names]),
            definition: lives("c"),
        };
        now.bgp.advertisements = Ok((None, Some(communities)));
        // This process has seen no peer and no advertisement; ipam-service may have those of before a start.
        assert_eq!(now.bgp_peers(&mut world), View::Silent);
        assert_eq!(now.bgp_advertisements(&mut world), View::Silent);
        world.index.apply_declared(peer("a"));
        let peers = Listed {
            objects: Some(vec![peer("a")]),
            definition: lives("d"),
        };
        now.bgp.peers = Ok((Some(peers), Some(profiles)));
        assert_eq!(now.bgp_peers(&mut world), View::Current);
    }
}
