//! Limits, rates, turns.

use super::*;

fn limits(text: &str) -> Result<Arc<ThrottleGroup>, QError> {
    let limits = from_json(Value::parse_json(text).unwrap()).unwrap();
    let p = ThrottleGroupProperties { limits: Some(limits), ..Default::default() };
    ThrottleGroup::new(&p).map(Arc::new)
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let range = "bps/iops/max values must be within [0, 1000000000000000]";
    for (text, message) in [
        (
            "{'iops-total':1,'iops-read':1}",
            "bps/iops/max total values and read/write values cannot be used at the same time",
        ),
        ("{'iops-total':-1}", range),
        ("{'iops-total':1000000000000001}", range),
        ("{'iops-total-max':5}", "bps_max/iops_max require corresponding bps/iops values"),
        ("{'iops-total':5,'iops-total-max':3}", "bps_max/iops_max cannot be lower than bps/iops"),
        ("{'iops-total':5,'iops-total-max-length':3}", "burst length set without burst rate"),
        (
            "{'bps-read':5,'bps-read-max':10,'bps-read-max-length':4294967296}",
            "bps-read-max-length value must be in the range [0, 4294967295]",
        ),
        ("{'iops-total':5,'iops-total-max':10,'iops-total-max-length':0}", "the burst length cannot be 0"),
        ("{'bps-read':4,'iops-size':3}", "iops size requires an iops value to be set"),
        (
            "{'iops-total':5,'iops-total-max':1000000000000000,'iops-total-max-length':1000000}",
            "burst length too high for this burst rate",
        ),
    ] {
        assert_eq!(limits(text).err().unwrap().desc(), message, "{text}");
    }
}

#[test]
fn properties_are_read_and_set_by_name() {
    let o = ThrottleObject { group: limits("{'iops-total':5}").unwrap() };
    let set =
        |name: &str, v: &str| o.set(name, &Value::parse_json(v).unwrap()).map_err(|e| e.desc().to_owned());
    assert_eq!(o.get("x-iops-total"), Some(Value::from(5)));
    assert_eq!(set("limits", "{'nope':9}").unwrap_err(), "Parameter 'limits.nope' is unexpected");
    let wrong = "Invalid parameter type for 'limits', expected: object";
    assert_eq!(set("limits", "3").unwrap_err(), wrong);
    let late = "Property cannot be set after initialization";
    assert_eq!(set("x-iops-total", "11").unwrap_err(), late);
    assert_eq!(set("nope", "1").unwrap_err(), "Property 'throttle-group.nope' not found");
    set("limits", "{'iops-total-max':7}").unwrap();
    let all = o.get("limits").unwrap();
    for (name, v) in [("iops-total", 5), ("iops-total-max", 7), ("iops-total-max-length", 1), ("bps-read", 0)]
    {
        assert_eq!(all.get(name), Some(&Value::from(v)), "{name}");
    }
    let p = ThrottleGroupProperties { x_iops_total: Some(-7), ..Default::default() };
    assert_eq!(ThrottleGroup::new(&p).err().unwrap().desc(), "Property values cannot be negative");
}

fn in_sim<T>(f: impl Future<Output = T>) -> T {
    rt::sim::Sim::new(3).block_on(f)
}

#[test]
fn a_rate_is_kept_and_bursts_are_let_through() {
    in_sim(async {
        let m = limits("{'iops-total':100}").unwrap().join();
        let start = rt::now();
        for _ in 0..200 {
            m.admit(Direction::Read, 4096).await;
        }
        let took = (rt::now() - start).as_secs_f64();
        assert!((1.8..2.0).contains(&took), "{took}");

        // 10 s' worth at 1000 a second, then 100 a second.
        let m = limits("{'bps-write':100,'bps-write-max':1000,'bps-write-max-length':10}").unwrap().join();
        let start = rt::now();
        for _ in 0..100 {
            m.admit(Direction::Write, 100).await;
        }
        let burst = (rt::now() - start).as_secs_f64();
        assert!((9.0..11.0).contains(&burst), "{burst}");
        let start = rt::now();
        for _ in 0..100 {
            m.admit(Direction::Write, 10).await;
            m.admit(Direction::Read, 1 << 40).await;
        }
        assert!((rt::now() - start).as_secs_f64() < 11.0);
        for _ in 0..100 {
            m.admit(Direction::Write, 100).await;
        }
        assert!((rt::now() - start).as_secs_f64() > 90.0);
    });
}

#[test]
fn long_requests_count_as_several() {
    in_sim(async {
        let m = limits("{'iops-total':10,'iops-size':4096}").unwrap().join();
        let start = rt::now();
        for _ in 0..11 {
            m.admit(Direction::Write, 40960).await;
        }
        assert!((rt::now() - start).as_secs_f64() > 9.0);
    });
}

#[test]
fn members_take_turns() {
    in_sim(async {
        let group = limits("{'iops-total':100}").unwrap();
        let served = Arc::new(Mutex::new([0; 3]));
        // One with many requests at once, two with one at a time.
        let tasks: Vec<_> = [(0, 50), (1, 1), (2, 1)]
            .into_iter()
            .flat_map(|(who, depth)| {
                let m = Arc::new(group.join());
                (0..depth).map(move |_| (who, m.clone()))
            })
            .map(|(who, m)| {
                let served = served.clone();
                rt::spawn_local(async move {
                    loop {
                        m.admit(Direction::Read, 512).await;
                        served.lock()[who] += 1;
                    }
                })
            })
            .collect();
        rt::sleep(Duration::from_secs(10)).await;
        let got = *served.lock();
        tasks.iter().for_each(|t| t.abort());
        assert!(got.iter().all(|n| (300..370).contains(n)), "{got:?}");
    });
}

#[test]
fn who_gives_up_holds_nobody_up_and_who_is_exempt_passes() {
    in_sim(async {
        let group = limits("{'iops-total':1}").unwrap();
        let (a, b) = (group.join(), Arc::new(group.join()));
        a.admit(Direction::Read, 1).await;
        assert!(rt::timeout(Duration::from_millis(10), a.admit(Direction::Read, 1)).await.is_none());
        let start = rt::now();
        b.admit(Direction::Read, 1).await;
        assert!(rt::now() - start < Duration::from_secs(2));
        let b2 = b.clone();
        let waiting = rt::spawn_local(async move { b2.admit(Direction::Read, 1).await });
        rt::yield_now().await;
        let start = rt::now();
        b.set_exempt(1);
        waiting.await;
        assert_eq!(rt::now(), start);
        b.set_exempt(0);
        group.set_limits(&ThrottleLimits { iops_total: Some(0), ..Default::default() }).unwrap();
        a.admit(Direction::Read, 1).await;
        assert!(rt::now() - start < Duration::from_millis(1));
    });
}
