//! The driver `x-rhea-s3`: objects in stores with the interface of Amazon's S3, to read. It is Rhea's own.

use crate::ahead::Ahead;
use crate::client::{Ask, Client};
use crate::driver::{Web, readahead, timeout};
use crate::proxy;
use crate::sign::{Signer, encoded};
use crate::url::{Origin, Url};
use api::block_core::{BlockdevDriverOptions, BlockdevOptionsRheaS3};
use block::driver::{Driver, DriverType, OpenCx, OpenFuture};
use block::filename::FileNames;
use crypto::Secret;
use qapi::{Dict, QError, qerr};
use qom::ObjectTree;
use std::sync::Arc;

/// `x-rhea-s3`.
pub static S3: DriverType = DriverType {
    name: "x-rhea-s3",
    file_names: Some(FileNames { prefixes: &["s3"], parse: named, older: None }),
    open,
    ..crate::driver::HTTP
};

/// The region, unless the user or the environment says another.
const REGION: &str = "us-east-1";

fn named(name: &str) -> Result<Dict, QError> {
    let invalid = || qerr!("'{name}' does not have the form s3://BUCKET/OBJECT");
    let rest = name.strip_prefix("s3://").ok_or_else(invalid)?;
    let (bucket, object) =
        rest.split_once('/').filter(|(b, o)| !b.is_empty() && !o.is_empty()).ok_or_else(invalid)?;
    Ok(Dict::from_iter([("bucket", bucket), ("object", object)]))
}

/// What the environment says, where the options do not; the names are those that other programs for such stores take.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn open<'a>(cx: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let BlockdevDriverOptions::RheaS3(o) = &cx.options.driver else {
            return Err(qerr!("The options are not those of an object store"));
        };
        if !cx.flags.read_only && !cx.flags.auto_read_only {
            return Err(qerr!("Objects in stores can only be read"));
        }
        let ahead = readahead(o.readahead)?;
        let client = Client::new(ask(o, cx.objects.as_deref(), &variable)?);
        let thing = client
            .look()
            .await
            .map_err(|why| qerr!("Could not open object '{}' in bucket '{}': {why}", o.object, o.bucket))?;
        // The name says where it is only together with the environment.
        Ok(Arc::new(Web { client, thing, ahead: Ahead::new(ahead), filename: None }) as Arc<dyn Driver>)
    })
}

fn ask(
    o: &BlockdevOptionsRheaS3,
    objects: Option<&ObjectTree>,
    var: &dyn Fn(&str) -> Option<String>,
) -> Result<Ask, QError> {
    let secret = |id: &str| -> Result<Secret, QError> {
        objects.ok_or_else(|| qerr!("No secret with id '{id}'"))?.password(id)
    };
    let region = o.region.clone().or_else(|| var("AWS_REGION")).or_else(|| var("AWS_DEFAULT_REGION"));
    let region = region.unwrap_or_else(|| REGION.into());
    let plain =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    for (what, text) in [("region", &region), ("bucket", &o.bucket)] {
        if !plain(text) {
            return Err(qerr!("The {what} '{text}' has characters that it cannot have"));
        }
    }
    if o.object.is_empty() || o.object.starts_with('/') || o.object.split('/').any(|s| s == "." || s == "..")
    {
        return Err(qerr!("The object's name '{}' cannot be asked for", o.object));
    }
    let endpoint =
        o.endpoint.clone().or_else(|| var("AWS_ENDPOINT_URL_S3")).or_else(|| var("AWS_ENDPOINT_URL"));
    let url = match &endpoint {
        Some(e) => {
            let base = Url::parse(e).filter(|u| u.user.is_none() && !u.target.contains('?'));
            let base = base.ok_or_else(|| qerr!("The endpoint '{e}' is no URL of http or https"))?;
            let path = base.target.trim_end_matches('/');
            Url { target: format!("{path}/{}/{}", o.bucket, encoded(&o.object)), ..base }
        }
        // A dot in a bucket's name would be one in the host's, for which there is no certificate.
        None if o.bucket.contains('.') => Url {
            origin: Origin { tls: true, host: format!("s3.{region}.amazonaws.com"), port: 443 },
            target: format!("/{}/{}", o.bucket, encoded(&o.object)),
            user: None,
        },
        None => Url {
            origin: Origin { tls: true, host: format!("{}.s3.{region}.amazonaws.com", o.bucket), port: 443 },
            target: format!("/{}", encoded(&o.object)),
            user: None,
        },
    };
    let plain_is_meant =
        o.allow_http.unwrap_or_else(|| matches!(var("AWS_ALLOW_HTTP").as_deref(), Some("true" | "1")));
    if !url.origin.tls && !plain_is_meant {
        return Err(qerr!("The endpoint is not encrypted: give 'allow-http' if that is meant"));
    }
    let of_environment = |name: &str| var(name).map(|v| Secret::new(v.into_bytes()));
    let sign = match (&o.access_key_id, &o.secret_key_secret) {
        (Some(id), Some(key)) => {
            let token = o.session_token_secret.as_deref().map(secret).transpose()?;
            Some(Signer { id: id.clone(), key: secret(key)?, token, region })
        }
        (None, None) if o.session_token_secret.is_some() => {
            return Err(qerr!("'session-token-secret' needs 'access-key-id' and 'secret-key-secret'"));
        }
        (None, None) if o.anonymous == Some(true) => None,
        // Without a key, requests are anybody's.
        (None, None) => var("AWS_ACCESS_KEY_ID")
            .zip(of_environment("AWS_SECRET_ACCESS_KEY"))
            .map(|(id, key)| Signer { id, key, token: of_environment("AWS_SESSION_TOKEN"), region }),
        _ => return Err(qerr!("'access-key-id' and 'secret-key-secret' must be given together")),
    };
    if let Some(s) = &sign {
        let fits = |b: &[u8]| b.iter().all(u8::is_ascii_graphic);
        if !fits(s.id.as_bytes()) || s.id.is_empty() || s.token.as_ref().is_some_and(|t| !fits(t)) {
            return Err(qerr!("The key's name or token has a character that cannot be sent"));
        }
    }
    let proxy = |origin: &Origin| {
        proxy::find(origin, &|name| std::env::var(name).ok(), None).map_err(|e| e.desc().to_owned())
    };
    Ok(Ask {
        url,
        auth: None,
        cookie: None,
        sign,
        verify: o.sslverify.unwrap_or(true),
        patience: timeout(o.timeout)?,
        proxy: Box::new(proxy),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use qapi::{Value, from_json};

    fn asked(options: &str, env: &[(&str, &str)]) -> String {
        let o: BlockdevOptionsRheaS3 = from_json(Value::parse_json(options).unwrap()).unwrap();
        let var = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        match ask(&o, None, &var) {
            Ok(a) => {
                format!("{} {}", a.url, a.sign.map_or_else(String::new, |s| format!("{} {}", s.id, s.region)))
            }
            Err(e) => e.desc().to_owned(),
        }
    }

    #[test]
    fn where_objects_are() {
        let keys = [("AWS_ACCESS_KEY_ID", "K"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "eu-1")];
        for (options, env, want) in [
            ("{'bucket':'b','object':'x y'}", &[][..], "https://b.s3.us-east-1.amazonaws.com/x%20y "),
            ("{'bucket':'b.c','object':'x'}", &keys, "https://s3.eu-1.amazonaws.com/b.c/x K eu-1"),
            (
                "{'bucket':'b','object':'x','region':'r','anonymous':true}",
                &keys,
                "https://b.s3.r.amazonaws.com/x ",
            ),
            ("{'bucket':'b','object':'x','endpoint':'https://h:9/p/'}", &[], "https://h:9/p/b/x "),
            ("{'bucket':'b','object':'x'}", &[("AWS_ENDPOINT_URL", "https://h")], "https://h/b/x "),
            (
                "{'bucket':'b','object':'x'}",
                &[("AWS_ENDPOINT_URL", "http://h"), ("AWS_ALLOW_HTTP", "true")],
                "http://h/b/x ",
            ),
            (
                "{'bucket':'b','object':'x','endpoint':'http://h'}",
                &[],
                "The endpoint is not encrypted: give 'allow-http' if that is meant",
            ),
            ("{'bucket':'b','object':'x','endpoint':'http://h','allow-http':true}", &[], "http://h/b/x "),
            (
                "{'bucket':'b','object':'x','endpoint':'h'}",
                &[],
                "The endpoint 'h' is no URL of http or https",
            ),
            ("{'bucket':'b@h/','object':'x'}", &[], "The bucket 'b@h/' has characters that it cannot have"),
            ("{'bucket':'b','object':'a/../x'}", &[], "The object's name 'a/../x' cannot be asked for"),
            (
                "{'bucket':'b','object':'x','access-key-id':'K'}",
                &[],
                "'access-key-id' and 'secret-key-secret' must be given together",
            ),
            (
                "{'bucket':'b','object':'x','session-token-secret':'t'}",
                &[],
                "'session-token-secret' needs 'access-key-id' and 'secret-key-secret'",
            ),
            (
                "{'bucket':'b','object':'x','access-key-id':'K','secret-key-secret':'s'}",
                &[],
                "No secret with id 's'",
            ),
            (
                "{'bucket':'b','object':'x'}",
                &[("AWS_ACCESS_KEY_ID", "a b"), ("AWS_SECRET_ACCESS_KEY", "s")],
                "The key's name or token has a character that cannot be sent",
            ),
        ] {
            assert_eq!(asked(options, env), want, "{options}");
        }
    }

    #[test]
    fn names() {
        let name = |n: &str| {
            named(n).map(|d| Value::Dict(d).to_json().replace('"', "")).map_err(|e| e.desc().to_owned())
        };
        assert_eq!(name("s3://b/a/c?d").unwrap(), "{bucket: b, object: a/c?d}");
        for bad in ["s3:b/x", "s3://b", "s3://b/", "s3:///x"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
