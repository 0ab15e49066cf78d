//! The block layer's seeded simulation with real qcow2 images: random graphs, requests, reopens, drains, faults and
//! crashes against a flat model.
//!
//! `RHEA_SIM_RUNS=10000 RHEA_SIM_SEED=1 cargo test -p block-qcow2 --test sim` runs more, or others.

mod common;
mod encrypted;

use api::block_core::BlockdevDriver;
use block::testing::{SIM_FILE, SIM_NULL, SIM_RAW, SimFormat, World, run_many};
use block_qcow2::QCOW2;

fn create(world: &World, name: &str, size: u64, backing: Option<&str>, cluster: u64, lazy: bool) {
    let backing = backing.map(|b| (b, BlockdevDriver::Raw));
    let mut o = common::options(size.next_multiple_of(512), cluster, backing);
    o.lazy_refcounts = Some(lazy);
    world.create(name, common::image(&o));
}

fn run(create: fn(&World, &str, u64, Option<&str>), cluster: u64, runs: u64) {
    format(create, cluster, runs, false);
}

fn format(create: fn(&World, &str, u64, Option<&str>), cluster: u64, runs: u64, encrypted: bool) {
    let drivers = vec![&SIM_FILE, &SIM_RAW, &SIM_NULL, &QCOW2];
    run_many(runs, &SimFormat { drivers, create, cluster, crash: true, encrypted });
}

#[test]
fn small_clusters() {
    run(|w, n, s, b| create(w, n, s, b, 512, false), 512, 60);
}

#[test]
fn usual_clusters() {
    run(|w, n, s, b| create(w, n, s, b, 4096, false), 4096, 100);
}

#[test]
fn lazy_refcounts() {
    run(|w, n, s, b| create(w, n, s, b, 2048, true), 2048, 60);
}

#[test]
fn encrypted() {
    let create = |w: &World, name: &str, size: u64, backing: Option<&str>| {
        let backing = backing.map(|b| (b, BlockdevDriver::Raw));
        w.create(name, encrypted::image(&common::options(size.next_multiple_of(512), 4096, backing)));
    };
    format(create, 4096, 30, true);
}
