//! Seeded simulation of the block layer with the small copy-on-write format of `block::testing`.
//!
//! `RHEA_SIM_RUNS=10000 RHEA_SIM_SEED=1 cargo test -p block --test sim` runs more, or others.

use block::testing::{COW, DRIVERS, SimFormat, create_cow, run_many};

#[test]
fn random_graphs_agree_with_the_flat_model() {
    assert!(DRIVERS.iter().any(|d| d.name == COW.name));
    let (drivers, create) = (DRIVERS.to_vec(), create_cow);
    let format = SimFormat { drivers, create, cluster: 4096, crash: true, encrypted: false };
    run_many(200, &format);
}
