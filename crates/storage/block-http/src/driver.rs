//! The drivers `http` and `https`.

use crate::ahead::Ahead;
use crate::client::{Ask, Client, Thing, basic};
use crate::conn::Patience;
use crate::proxy;
use crate::url::{Origin, Url};
use api::block_core::{BlockdevDriverOptions, BlockdevOptionsCurlHttp, BlockdevOptionsCurlHttps};
use block::driver::{
    CtlFuture, Cx, Driver, DriverType, Extent, ExtentKind, IoFuture, Kind, NodePlan, NothingStaged, OpenCx,
    OpenFuture, Staged,
};
use block::filename::FileNames;
use crypto::Secret;
use mem::IoBuf;
use qapi::{Dict, QError, qerr};
use qom::ObjectTree;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// `http`.
pub static HTTP: DriverType = DriverType {
    name: "http",
    kind: Kind::Protocol,
    file_names: Some(FileNames { prefixes: &["http"], parse: named, older: None }),
    open,
    ..DriverType::BASE
};

/// `https`.
pub static HTTPS: DriverType = DriverType {
    name: "https",
    file_names: Some(FileNames { prefixes: &["https"], parse: named, older: None }),
    ..HTTP
};

/// What is read ahead, bytes, unless the user says otherwise.
const READAHEAD: i64 = 256 << 10;
/// How long a server may say nothing, seconds, likewise.
const TIMEOUT: i64 = 5;
/// The longest that can be said.
const MAX_TIMEOUT: i64 = 10_000;
/// The sector of a disk: the node's length is a multiple of it.
const SECTOR: u64 = 512;

fn named(name: &str) -> Result<Dict, QError> {
    Ok(Dict::from_iter([("url", name)]))
}

/// A thing on a server as a node.
pub(crate) struct Web {
    pub(crate) client: Client,
    pub(crate) thing: Thing,
    pub(crate) ahead: Ahead,
    /// Where a URL alone describes the node.
    pub(crate) filename: Option<String>,
}

/// The options of both drivers.
struct Options<'a> {
    http: &'a BlockdevOptionsCurlHttp,
    scheme: &'static str,
    verify: Option<bool>,
}

fn of_https(o: &BlockdevOptionsCurlHttps) -> BlockdevOptionsCurlHttp {
    let o = o.clone();
    BlockdevOptionsCurlHttp {
        url: o.url,
        readahead: o.readahead,
        timeout: o.timeout,
        username: o.username,
        password_secret: o.password_secret,
        proxy_username: o.proxy_username,
        proxy_password_secret: o.proxy_password_secret,
        cookie: o.cookie,
        cookie_secret: o.cookie_secret,
    }
}

fn open<'a>(cx: OpenCx<'a>) -> OpenFuture<'a> {
    Box::pin(async move {
        let https;
        let options = match &cx.options.driver {
            BlockdevDriverOptions::Http(http) => Options { http, scheme: "http", verify: None },
            BlockdevDriverOptions::Https(o) => {
                https = of_https(o);
                Options { http: &https, scheme: "https", verify: o.sslverify }
            }
            _ => return Err(qerr!("The options are not those of a web server")),
        };
        if !cx.flags.read_only && !cx.flags.auto_read_only {
            return Err(qerr!("curl driver does not support writes"));
        }
        let ahead = readahead(options.http.readahead)?;
        let client = Client::new(options.ask(cx.objects.as_deref())?);
        let thing = client.look().await.map_err(|why| qerr!("CURL: Error opening file: {why}"))?;
        let filename = options.plain();
        Ok(Arc::new(Web { client, thing, ahead: Ahead::new(ahead), filename }) as Arc<dyn Driver>)
    })
}

/// How far is read ahead, bytes.
pub(crate) fn readahead(said: Option<i64>) -> Result<u64, QError> {
    let said = said.unwrap_or(READAHEAD);
    match u64::try_from(said) {
        Ok(n) if n % SECTOR == 0 => Ok(n),
        _ => Err(qerr!("HTTP_READAHEAD_SIZE {said} is not a multiple of {SECTOR}")),
    }
}

/// How long the server may say nothing.
pub(crate) fn timeout(said: Option<i64>) -> Result<Patience, QError> {
    let said = said.unwrap_or(TIMEOUT);
    if !(0..=MAX_TIMEOUT).contains(&said) {
        return Err(qerr!("timeout parameter is too large or negative"));
    }
    Ok((said > 0).then(|| Duration::from_secs(said.unsigned_abs())))
}

/// Text that can stand in a field of a request.
fn field(what: &str, text: &str) -> Result<(), QError> {
    match text.contains(['\r', '\n', '\0']) {
        true => Err(qerr!("The {what} has a character that cannot be sent")),
        false => Ok(()),
    }
}

impl Options<'_> {
    /// The URL, where nothing else is needed to describe the node.
    fn plain(&self) -> Option<String> {
        let o = self.http;
        let more = [
            &o.username,
            &o.password_secret,
            &o.proxy_username,
            &o.proxy_password_secret,
            &o.cookie,
            &o.cookie_secret,
        ];
        let alone = more.iter().all(|m| m.is_none()) && self.verify.is_none();
        alone.then(|| o.url.clone())
    }

    fn ask(&self, objects: Option<&ObjectTree>) -> Result<Ask, QError> {
        let o = self.http;
        let secret = |id: &Option<String>| -> Result<Option<Secret>, QError> {
            let Some(id) = id else { return Ok(None) };
            let objects = objects.ok_or_else(|| qerr!("No secret with id '{id}'"))?;
            objects.password(id).map(Some)
        };
        let text = |s: &Option<Secret>| {
            Zeroizing::new(s.as_ref().map_or_else(String::new, |s| String::from_utf8_lossy(s).into_owned()))
        };
        let start = format!("{}://", self.scheme);
        if !o.url.starts_with(&start) {
            return Err(qerr!(
                "{} curl driver cannot handle the URL '{}' (does not start with '{start}')",
                self.scheme,
                o.url
            ));
        }
        let Some(url) = Url::parse(&o.url) else {
            return Err(qerr!("CURL: Error opening file: URL using bad/illegal format or missing URL"));
        };
        let patience = timeout(o.timeout)?;
        if o.cookie.is_some() && o.cookie_secret.is_some() {
            return Err(qerr!("curl driver cannot handle both cookie and cookie secret"));
        }
        let cookie = match (&o.cookie, secret(&o.cookie_secret)?) {
            (Some(c), _) => Some(Zeroizing::new(c.clone())),
            (None, Some(s)) => Some(text(&Some(s))),
            (None, None) => None,
        };
        if let Some(c) = &cookie {
            field("cookie", c)?;
        }
        let both =
            |name: &Option<String>, id: &Option<String>| -> Result<Option<Zeroizing<String>>, QError> {
                let password = secret(id)?;
                if name.is_none() && password.is_none() {
                    return Ok(None);
                }
                let name = name.as_deref().unwrap_or("");
                let whole = Zeroizing::new(format!("{name}:{}", &*text(&password)));
                Ok(Some(Zeroizing::new(basic(&whole))))
            };
        let auth = both(&o.username, &o.password_secret)?;
        let auth = auth.or_else(|| url.user.as_deref().map(|u| Zeroizing::new(basic(u))));
        let proxy_auth = both(&o.proxy_username, &o.proxy_password_secret)?;
        let proxy = move |origin: &Origin| {
            let auth = proxy_auth.as_ref().map(|a| a.to_string());
            proxy::find(origin, &|name| std::env::var(name).ok(), auth).map_err(|e| e.desc().to_owned())
        };
        Ok(Ask {
            url,
            auth,
            cookie,
            sign: None,
            verify: self.verify.unwrap_or(true),
            patience,
            proxy: Box::new(proxy),
        })
    }
}

impl Driver for Web {
    fn len(&self, _cx: &Cx<'_>) -> u64 {
        self.thing.size.next_multiple_of(SECTOR)
    }

    fn locate<'a>(&'a self, cx: &'a Cx<'a>, off: u64, len: u64) -> IoFuture<'a, Extent> {
        let kind = ExtentKind::Own { offset: Some(off), zero: false };
        let eof = off + len >= self.len(cx);
        Box::pin(std::future::ready(Ok(Extent { len, kind, eof })))
    }

    fn read<'a>(&'a self, _cx: &'a Cx<'a>, off: u64, buf: IoBuf) -> IoFuture<'a> {
        Box::pin(async move {
            let inside = self.thing.size.saturating_sub(off).min(buf.len() as u64) as usize;
            let (buf, beyond) = buf.split_at(inside);
            beyond.fill(0);
            if buf.is_empty() {
                return Ok(());
            }
            self.ahead.read(&self.client, &self.thing, off, &buf).await
        })
    }

    fn stage<'a>(&'a self, _cx: &'a Cx<'a>, next: &'a NodePlan) -> CtlFuture<'a, Box<dyn Staged>> {
        Box::pin(async move {
            if next.writes() {
                return Err(qerr!("curl driver does not support writes"));
            }
            Ok(Box::new(NothingStaged) as Box<dyn Staged>)
        })
    }

    fn close<'a>(&'a self, _cx: &'a Cx<'a>) -> IoFuture<'a> {
        self.client.close();
        Box::pin(async { Ok(()) })
    }

    fn filename(&self) -> Option<String> {
        self.filename.clone()
    }

    fn forced_read_only(&self) -> bool {
        true
    }
}
