//! `Graph::check` against a model that works by brute force, on random graphs.

use crate::driver::{
    ChildDef, ChildSlot, DriverType, Kind, NodeFlags, OpenCx, OpenFuture, default_child_perm, no_children,
};
use crate::gate::Gate;
use crate::graph::{Edge, Graph, GraphError, Node, NodeId, RootDef, RootId, User};
use crate::options::NodeOptions;
use crate::perm::{Perm, PermPair, Role};
use api::block_core::{BlockdevDriverOptions, BlockdevOptions, BlockdevOptionsNull};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

static TYPE: DriverType = DriverType {
    name: "null-co",
    kind: Kind::Format,
    mutable_opts: &[],
    supports_backing: true,
    supports_reopen: true,
    children: no_children,
    child_perm: default_child_perm,
    open: never,
    probe: None,
    ..DriverType::BASE
};

fn never(_: OpenCx<'_>) -> OpenFuture<'_> {
    Box::pin(async { Err("never opened".into()) })
}

const NAMES: [&str; 4] = ["file", "backing", "x0", "x1"];
const SLOTS: [ChildSlot; 4] = [ChildSlot::File, ChildSlot::Backing, ChildSlot::Other(0), ChildSlot::Other(1)];

fn role(n: u8) -> Role {
    [
        Role::DATA | Role::METADATA | Role::PRIMARY,
        Role::COW,
        Role::FILTERED | Role::PRIMARY,
        Role::DATA,
        Role::METADATA,
    ][usize::from(n % 5)]
}

/// A graph as plain numbers: for each node its flags and its links (child, role); for each root node and permissions.
#[derive(Clone, Debug)]
struct Plain {
    nodes: Vec<(u8, Vec<(usize, u8)>)>,
    roots: Vec<(usize, u8, u8)>,
}

fn flags(bits: u8) -> NodeFlags {
    NodeFlags {
        read_only: bits & 1 != 0 || bits & 4 != 0,
        inactive: bits & 2 != 0,
        force_share: bits & 4 != 0,
        ..NodeFlags::default()
    }
}

fn build(p: &Plain) -> Graph {
    let typed = BlockdevOptions::new(BlockdevDriverOptions::NullCo(BlockdevOptionsNull::default()));
    let options = NodeOptions { typed: Arc::new(typed), own: BTreeMap::new(), children: BTreeMap::new() };
    let options = Arc::new(options);
    let mut g = Graph::default();
    let mut seq = 0;
    for (i, (bits, links)) in p.nodes.iter().enumerate() {
        let edges = links
            .iter()
            .enumerate()
            .map(|(k, (child, r))| {
                seq += 1;
                Edge {
                    child: NodeId(*child as u64),
                    name: NAMES[k],
                    slot: SLOTS[k],
                    role: role(*r),
                    frozen: 0,
                    seq,
                    pair: PermPair::NONE,
                }
            })
            .collect();
        let id = NodeId(i as u64);
        let node = Node {
            id,
            name: format!("n{i}"),
            ty: &TYPE,
            flags: flags(*bits),
            options: options.clone(),
            edges,
            next_member: 0,
            pair: PermPair::NONE,
            monitor_owned: true,
            inherits_from: None,
            implicit: false,
            guessed: None,
            born: 0,
            driver: None,
            live: Arc::default(),
        };
        g.nodes.insert(id, Arc::new(node));
    }
    for (i, (node, perm, shared)) in p.roots.iter().enumerate() {
        seq += 1;
        let id = RootId(i as u64);
        let def = RootDef {
            id,
            name: String::new(),
            qdev: None,
            desc: String::new(),
            node: Some(NodeId(*node as u64)),
            pair: PermPair {
                perm: Perm::from_bits_truncate(*perm),
                shared: Perm::from_bits_truncate(*shared),
            },
            seq,
            rests: false,
            drive: false,
            writeback: true,
            on_error: Default::default(),
            on_change: None,
            reserves: String::new(),
            job: None,
            held: None,
            gate: Gate::new(),
            stats: Default::default(),
        };
        g.roots.insert(id, Arc::new(def));
    }
    g
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine(BTreeMap<NodeId, PermPair>),
    Cycle,
    Bad,
}

/// The rules once more, without any order: permissions by iteration until nothing changes, cycles by paths of every
/// length.
fn model(p: &Plain) -> Verdict {
    let n = p.nodes.len();
    let mut reach = vec![vec![false; n]; n];
    for (i, (_, links)) in p.nodes.iter().enumerate() {
        links.iter().for_each(|(c, _)| reach[i][*c] = true);
    }
    for k in 0..n {
        for i in 0..n {
            for j in 0..n {
                reach[i][j] |= reach[i][k] && reach[k][j];
            }
        }
    }
    let shape = p
        .nodes
        .iter()
        .any(|(_, links)| links.iter().filter(|(_, r)| role(*r).contains(Role::PRIMARY)).count() > 1);
    let active_on_inactive = p
        .nodes
        .iter()
        .any(|(bits, links)| bits & 2 == 0 && links.iter().any(|(c, _)| p.nodes[*c].0 & 2 != 0));
    if shape || active_on_inactive {
        return Verdict::Bad;
    }
    if (0..n).any(|i| reach[i][i]) {
        return Verdict::Cycle;
    }
    let mut pairs = vec![PermPair::NONE; n];
    let users = |pairs: &[PermPair], to: usize| {
        let mut all = Vec::new();
        for (node, perm, shared) in &p.roots {
            if *node == to {
                let (perm, shared) = (Perm::from_bits_truncate(*perm), Perm::from_bits_truncate(*shared));
                all.push(PermPair { perm, shared });
            }
        }
        for (i, (bits, links)) in p.nodes.iter().enumerate() {
            for (k, (c, r)) in links.iter().enumerate() {
                if *c == to {
                    let def = ChildDef { name: NAMES[k], slot: SLOTS[k], role: role(*r) };
                    let mut pair = default_child_perm(&def, pairs[i], &flags(*bits));
                    if flags(*bits).force_share {
                        pair.shared = Perm::all();
                    }
                    all.push(pair);
                }
            }
        }
        all
    };
    for _ in 0..=n {
        pairs = (0..n).map(|i| users(&pairs, i).into_iter().fold(PermPair::NONE, PermPair::join)).collect();
    }
    for i in 0..n {
        let all = users(&pairs, i);
        for (a, x) in all.iter().enumerate() {
            for (b, y) in all.iter().enumerate() {
                if a != b && !x.shared.contains(y.perm) {
                    return Verdict::Bad;
                }
            }
        }
        let f = flags(p.nodes[i].0);
        let writes = pairs[i].perm.intersects(Perm::WRITES);
        if (f.read_only && writes) || (f.inactive && pairs[i].perm.intersects(Perm::WRITES | Perm::RESIZE)) {
            return Verdict::Bad;
        }
    }
    Verdict::Fine(pairs.into_iter().enumerate().map(|(i, p)| (NodeId(i as u64), p)).collect())
}

fn verdict(g: &Graph) -> Verdict {
    match g.check() {
        Ok(e) => Verdict::Fine(e.nodes),
        Err(GraphError::Cycle(_)) => Verdict::Cycle,
        Err(_) => Verdict::Bad,
    }
}

/// Mostly links downward, so that many graphs are fine; some anywhere.
fn plain() -> impl Strategy<Value = Plain> {
    (1usize..7).prop_flat_map(|n| {
        let link = (0..n, 0u8..5, 0u8..20);
        let links = prop::collection::vec(link, 0..4);
        let node = (prop_oneof![6 => Just(0u8), 3 => Just(1u8), 1 => 0u8..8], links);
        let root = (
            0..n,
            prop_oneof![Just(1u8), Just(3u8), Just(11u8), 0u8..16],
            prop_oneof![3 => Just(15u8), 1 => 0u8..16],
        );
        (prop::collection::vec(node, n), prop::collection::vec(root, 0..4)).prop_map(move |(nodes, roots)| {
            let nodes = nodes.into_iter().enumerate().map(|(i, (bits, links))| {
                let links = links.into_iter().filter_map(|(c, r, wild)| {
                    let down = i + 1 + c;
                    (wild == 0).then_some((c, r)).or((down < n).then_some((down, r)))
                });
                (bits, links.collect())
            });
            Plain { nodes: nodes.collect(), roots }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn check_agrees_with_brute_force(p in plain()) {
        let g = build(&p);
        prop_assert_eq!(verdict(&g), model(&p));
    }

    #[test]
    fn the_order_of_nodes_does_not_matter(p in plain(), by in 1usize..6) {
        // The same graph with its nodes numbered otherwise.
        let n = p.nodes.len();
        let to = |i: usize| (i + by) % n;
        let mut q = p.clone();
        for (i, (bits, links)) in p.nodes.iter().enumerate() {
            q.nodes[to(i)] = (*bits, links.iter().map(|(c, r)| (to(*c), *r)).collect());
        }
        q.roots.iter_mut().for_each(|r| r.0 = to(r.0));
        let same = match (verdict(&build(&p)), verdict(&build(&q))) {
            (Verdict::Fine(a), Verdict::Fine(b)) => {
                a.iter().all(|(id, pair)| b[&NodeId(to(id.0 as usize) as u64)] == *pair)
            }
            (a, b) => a == b,
        };
        prop_assert!(same);
    }

    #[test]
    fn applying_is_idempotent_and_lowers_nobody(p in plain()) {
        let mut g = build(&p);
        if let Ok(e) = g.check() {
            g.apply(&e);
            prop_assert_eq!(g.check(), Ok(e.clone()));
            // What a user requires, the node's total contains.
            for (id, pair) in &e.nodes {
                for u in g.users(*id) {
                    let user = match u {
                        User::Root(r) | User::Between(r) => g.roots[&r].pair,
                        User::Edge(n, i) => g.nodes[&n].edges[i].pair,
                    };
                    prop_assert!(pair.perm.contains(user.perm) && user.shared.contains(pair.shared));
                }
            }
        }
    }
}

#[test]
fn many_graphs_of_each_kind_are_tried() {
    // Guards the generator: a property test over graphs that are all bad would show nothing.
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = [0; 3];
    for _ in 0..500 {
        let p = plain().new_tree(&mut runner).expect("the strategy gives values").current();
        match model(&p) {
            Verdict::Fine(_) => seen[0] += 1,
            Verdict::Cycle => seen[1] += 1,
            Verdict::Bad => seen[2] += 1,
        }
    }
    assert!(seen[0] > 100 && seen[1] > 15 && seen[2] > 50, "fine, cyclic, bad: {seen:?}");
}

#[test]
fn a_chain_of_a_thousand_is_checked_at_once() {
    let n = 1000;
    let node = |i: usize| (u8::from(i > 0), if i + 1 < n { vec![(i + 1, 1)] } else { vec![] });
    let p = Plain { nodes: (0..n).map(node).collect(), roots: vec![(0, 3, 1)] };
    let g = build(&p);
    let started = std::time::Instant::now();
    assert!(g.check().is_ok());
    assert!(started.elapsed() < std::time::Duration::from_secs(1));
}
