//! What is selected reaches the file; what is not does not.

use trace::{Item, Patterns};

#[test]
fn selected_reports_reach_the_file() {
    let path = std::env::temp_dir().join(format!("rhea-trace-{}.log", std::process::id()));
    trace::init();
    let template = path.to_string_lossy().replace(&std::process::id().to_string(), "%d");
    trace::open_file(&template).unwrap();

    let report = |n: u32| {
        trace::point!("test_alpha", n, text = "x");
        trace::point!("test_beta", n);
        trace::point!("test_delta");
        tracing::debug!(target: "test::gamma", n, "hello");
        trace::log!(GuestErrors, "guest {n}");
        trace::log!(Int, "interrupt {n}");
    };
    report(0);
    trace::select(["test_*", "-test_beta"].into_iter().collect());
    trace::set_items(&[Item::GuestErrors]);
    report(1);
    trace::select(["test::gamma"].into_iter().collect());
    trace::set_items(&[]);
    report(2);
    trace::select(Patterns::new());
    report(3);

    trace::to_stderr();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(text, "test_alpha n=1 text=x\ntest_delta\nguest 1\ntest::gamma hello n=2\n");
}

#[test]
fn bad_files_are_refused() {
    assert_eq!(trace::open_file("/tmp/a%x").unwrap_err(), "Bad logfile template: /tmp/a%x");
    assert_eq!(trace::open_file("/tmp/a%d%d").unwrap_err(), "Bad logfile template: /tmp/a%d%d");
    assert_eq!(
        trace::open_file("/nonexistent/log").unwrap_err(),
        "Error opening logfile /nonexistent/log: No such file or directory"
    );
}
