//! Proxies, as the environment names them.

use crate::url::{Origin, Url};
use qapi::{QError, qerr};

/// A proxy for HTTP.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What it is shown (`Proxy-Authorization`).
    pub(crate) auth: Option<String>,
}

/// The proxy for a server, by the variables `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`; `auth` stands for what the
/// variable says of a user.
///
/// # Errors
/// It is of a kind that is not spoken.
pub(crate) fn find(
    origin: &Origin,
    var: &dyn Fn(&str) -> Option<String>,
    auth: Option<String>,
) -> Result<Option<Proxy>, QError> {
    let of = |name: &str| {
        // In capitals, `HTTP_PROXY` is what a client of a CGI script can set by a header of that name.
        let capitals = || var(&name.to_ascii_uppercase()).filter(|_| name != "http_proxy");
        var(name).or_else(capitals).filter(|v| !v.is_empty())
    };
    let Some(said) = of(&format!("{}_proxy", origin.scheme())).or_else(|| of("all_proxy")) else {
        return Ok(None);
    };
    if of("no_proxy").is_some_and(|list| excluded(&list, &origin.host)) {
        return Ok(None);
    }
    let url = if said.contains("://") { said.clone() } else { format!("http://{said}") };
    let url = Url::parse(&url)
        .filter(|u| !u.origin.tls)
        .ok_or_else(|| qerr!("Unsupported proxy '{}'", shown(&said)))?;
    // Where no port is said it is 1080, even where a URL would have another.
    let place = said.trim_end_matches('/').rsplit_once('@').map_or(&*said, |(_, place)| place);
    let with_port =
        place.trim_end_matches('/').rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
    let port = if with_port { url.origin.port } else { 1080 };
    let auth = auth.or_else(|| url.user.as_deref().map(crate::client::basic));
    Ok(Some(Proxy { host: url.origin.host, port, auth }))
}

/// A proxy's address, for messages: without a password.
fn shown(said: &str) -> &str {
    said.rsplit_once('@').map_or(said, |(_, host)| host)
}

/// Whether a list of names and endings of names has this host.
fn excluded(list: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    list.split([',', ' ']).map(str::trim).filter(|n| !n.is_empty()).any(|name| {
        let name = name.trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
        name == "*" || host == name || host.strip_suffix(&name).is_some_and(|before| before.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(env: &[(&str, &str)], url: &str, auth: Option<&str>) -> String {
        let var = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let origin = Url::parse(url).unwrap().origin;
        match find(&origin, &var, auth.map(str::to_owned)) {
            Ok(None) => String::new(),
            Ok(Some(p)) => format!("{} {} {}", p.host, p.port, p.auth.unwrap_or_default()),
            Err(e) => e.desc().to_owned(),
        }
    }

    #[test]
    fn the_environment_names_proxies() {
        assert_eq!(found(&[], "http://h/", None), "");
        assert_eq!(found(&[("http_proxy", "p")], "http://h/", None), "p 1080 ");
        assert_eq!(found(&[("http_proxy", "http://u:x@p:3/")], "http://h/", None), "p 3 Basic dTp4");
        assert_eq!(found(&[("http_proxy", "http://u:x@p:3/")], "http://h/", Some("B")), "p 3 B");
        assert_eq!(found(&[("http_proxy", "p")], "https://h/", None), "");
        assert_eq!(found(&[("HTTP_PROXY", "p")], "http://h/", None), "");
        assert_eq!(found(&[("HTTPS_PROXY", "p:8")], "https://h/", None), "p 8 ");
        assert_eq!(found(&[("ALL_PROXY", "p:8")], "https://h/", None), "p 8 ");
        for list in ["h.x", ".x", "*", "a, x", "X"] {
            assert_eq!(found(&[("all_proxy", "p"), ("no_proxy", list)], "http://h.x/", None), "", "{list}");
        }
        assert_eq!(found(&[("all_proxy", "p"), ("no_proxy", "y,ah.x,.x.h")], "http://h.x/", None), "p 1080 ");
        assert_eq!(found(&[("all_proxy", "socks5://u:x@p:3")], "http://h/", None), "Unsupported proxy 'p:3'");
    }
}
