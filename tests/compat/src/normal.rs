//! What differs from run to run, written alike.

/// A text with times, rates and sizes on the disk written as `X`.
pub fn normal(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(line: &str) -> String {
    let (body, end) = line.strip_suffix('\n').map_or((line, ""), |b| (b, "\n"));
    let body = &names(body);
    let new = rates(body).or_else(|| machine(body)).or_else(|| size_on_disk(body));
    format!("{}{end}", new.as_deref().unwrap_or(body))
}

/// The names that nodes get where nobody names them.
fn names(line: &str) -> String {
    let mut parts = line.split("#block");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("#block");
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(if rest.len() < part.len() { "N" } else { "" });
        out.push_str(rest);
    }
    out
}

/// `512 bytes, 1 ops; 00.00 sec (1.117 MiB/sec and 2287.6699 ops/sec)`.
fn rates(line: &str) -> Option<String> {
    let (start, rest) = line.split_once(" ops; ")?;
    let (time, rate) = rest.split_once(" (")?;
    let (bytes, ops) = rate.strip_suffix(" ops/sec)")?.split_once("/sec and ")?;
    let number = |t: &str| !t.is_empty() && t.chars().all(|c| c.is_ascii_digit() || ".:inf".contains(c));
    let time = time.strip_suffix(" sec").unwrap_or(time);
    let (value, unit) = bytes.split_once(' ')?;
    let known = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].contains(&unit);
    (number(time) && number(value) && known && number(ops))
        .then(|| format!("{start} ops; XX.XX sec (X UNIT/sec and X ops/sec)"))
}

/// `512,1,0:00:00.00,158519.330,309.608`: the form for programs.
fn machine(line: &str) -> Option<String> {
    let parts: Vec<&str> = line.split(',').collect();
    let [bytes, ops, time, a, b] = parts[..] else { return None };
    let digits = |t: &str| !t.is_empty() && t.chars().all(|c| c.is_ascii_digit() || c == '.');
    (digits(bytes) && digits(ops) && time.split(':').count() == 3 && digits(a) && digits(b))
        .then(|| format!("{bytes},{ops},X,X,X"))
}

/// What a file occupies depends on the file system below.
fn size_on_disk(line: &str) -> Option<String> {
    let at = line.find(|c: char| c != ' ')?;
    let (indent, rest) = line.split_at(at);
    if rest.starts_with("disk size: ") {
        return Some(format!("{indent}disk size: X"));
    }
    let rest = rest.strip_prefix("\"actual-size\": ")?;
    let comma = if rest.ends_with(',') { "," } else { "" };
    Some(format!("{indent}\"actual-size\": X{comma}"))
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn what_differs_from_run_to_run() {
        for (from, to) in [
            (
                "512 bytes, 1 ops; 00.00 sec (1.117 MiB/sec and 2287.6699 ops/sec)\n",
                "512 bytes, 1 ops; XX.XX sec (X UNIT/sec and X ops/sec)\n",
            ),
            (
                "qemu-io> 0 bytes, 1 ops; 0:00:01.00 (0 bytes/sec and inf ops/sec)",
                "qemu-io> 0 bytes, 1 ops; XX.XX sec (X UNIT/sec and X ops/sec)",
            ),
            ("512,1,0:00:00.00,158519.330,309.608\n", "512,1,X,X,X\n"),
            ("node '#block132' over #block1\n", "node '#blockN' over #blockN\n"),
            ("  disk size: 196 KiB\n", "  disk size: X\n"),
            ("    \"actual-size\": 4096,\n", "    \"actual-size\": X,\n"),
        ] {
            assert_eq!(normal(from), to);
        }
    }

    #[test]
    fn what_does_not() {
        for same in ["512 bytes, 1 ops; soon\n", "a,b,c,d,e\n", "virtual size: 1 MiB\n", "", "\n"] {
            assert_eq!(normal(same), same);
        }
    }
}
