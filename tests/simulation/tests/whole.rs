//! Some hundred runs of the whole simulation. `RHEA_SIM_RUNS` and `RHEA_SIM_SEED` choose others.

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_is_lost_whatever_happens() {
    let runs = number("RHEA_SIM_RUNS", 200);
    let done = simulation::run_many(number("RHEA_SIM_SEED", 1), runs);
    println!("{done:#?}");
    if runs < 200 {
        return;
    }
    // It is no simulation of commands that all fail.
    for what in [
        "snapshot",
        "commit",
        "commit, active",
        "stream",
        "mirror, pivoted",
        "backup, compared",
        "backup, incremental",
        "transaction, backup",
        "bitmap",
        "bitmap, cleared",
        "bitmaps, merged",
        "internal snapshot, compared",
        "fleecing",
        "reopen",
        "client went away",
        "image at rest, compared",
        "crash",
    ] {
        assert!(done.contains_key(what), "nothing of the kind '{what}' ever succeeded");
    }
}
