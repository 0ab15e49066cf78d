//! Priorities: which versions and ciphers of TLS are used, in the words of GnuTLS ("Priority strings" of its manual), as far
//! as they have a meaning for OpenSSL.

use super::creds::{Kind, text};
use openssl::ssl::{Ssl, SslVersion};

/// What a priority string asks for. Without one, the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Priority {
    /// Keys and ciphers of 192 bits and more (of those that there are: 256).
    strong: bool,
    /// Only key exchanges whose secrets cannot be found out later.
    forward: bool,
    no_tls12: bool,
    no_tls13: bool,
}

/// Versions that are never used anyway.
const OLD: &[&str] = &["SSL3.0", "TLS1.0", "TLS1.1", "DTLS1.0", "DTLS1.2", "DTLS-ALL", "DTLS0.9"];

impl Priority {
    /// Understands a priority string.
    ///
    /// # Errors
    /// A word has no meaning here, or nothing is left to use.
    pub(super) fn parse(priority: &str) -> Result<Priority, String> {
        let refuse = |why: String| format!("Unable to set TLS session priority to '{priority}': {why}");
        let mut p = Priority::default();
        let mut words = priority.split(':');
        match words.next().unwrap_or("") {
            "NORMAL" | "PERFORMANCE" | "SECURE128" | "@SYSTEM" | "SYSTEM" => {}
            "SECURE192" | "SECURE256" => p.strong = true,
            "PFS" => p.forward = true,
            other => return Err(refuse(format!("'{other}' is not a level that is known"))),
        }
        for word in words {
            let (off, what) = match (word.strip_prefix(['-', '!']), word.strip_prefix('+')) {
                (Some(w), _) => (true, w),
                (_, Some(w)) => (false, w),
                _ => (false, word),
            };
            match what.strip_prefix("VERS-") {
                Some("ALL" | "TLS-ALL") => (p.no_tls12, p.no_tls13) = (off, off),
                Some("TLS1.2") => p.no_tls12 = off,
                Some("TLS1.3") => p.no_tls13 = off,
                Some(v) if off && OLD.contains(&v) => {}
                // What the credentials are for is said by their type.
                _ if !off && ["ANON-DH", "ANON-ECDH", "PSK", "DHE-PSK", "ECDHE-PSK"].contains(&what) => {}
                _ if ["%SERVER_PRECEDENCE", "%SAFE_RENEGOTIATION"].contains(&word) => {}
                _ => return Err(refuse(format!("'{word}' has no meaning here"))),
            }
        }
        if p.no_tls12 && p.no_tls13 {
            return Err(refuse("it leaves no version of TLS".into()));
        }
        Ok(p)
    }

    /// Whether credentials of this kind can be used so.
    ///
    /// # Errors
    /// There is no cipher left.
    pub(super) fn suits(self, kind: Kind) -> Result<(), String> {
        let only = match kind {
            Kind::Anon => "anonymous credentials",
            // A key without a hash of its own goes with SHA-256 only, of which TLS 1.3 has no strong cipher.
            Kind::Psk if self.strong => "shared keys with ciphers of 192 bits",
            _ => return Ok(()),
        };
        if self.no_tls12 { Err(format!("There are no {only} without TLS 1.2")) } else { Ok(()) }
    }

    /// Sets up a session.
    pub(super) fn apply(self, ssl: &mut Ssl, kind: Kind) -> Result<(), String> {
        let fail = |e| text(&e);
        let old = self.no_tls13 || (self.strong && kind == Kind::Psk);
        if self.no_tls12 {
            ssl.set_min_proto_version(Some(SslVersion::TLS1_3)).map_err(fail)?;
        }
        if old {
            ssl.set_max_proto_version(Some(SslVersion::TLS1_2)).map_err(fail)?;
        }
        if !self.strong && !self.forward {
            return Ok(());
        }
        let exchange = match (kind, self.forward) {
            (Kind::Anon, _) => &["aNULL"][..],
            (Kind::Psk, true) => &["kECDHEPSK", "kDHEPSK"],
            (Kind::Psk, false) => &["PSK"],
            (Kind::X509, true) => &["kEECDH+aRSA", "kEECDH+aECDSA", "kEDH+aRSA"],
            (Kind::X509, false) => &["aRSA", "aECDSA"],
        };
        let strength = if self.strong { &["+AES256", "+CHACHA20"][..] } else { &[""] };
        let mut list: Vec<String> =
            exchange.iter().flat_map(|e| strength.iter().map(move |s| format!("{e}{s}"))).collect();
        list.push("!eNULL:!3DES:!PSK".replace(":!PSK", if kind == Kind::X509 { ":!PSK:!aNULL" } else { "" }));
        if kind == Kind::Anon {
            list.push("@SECLEVEL=0".into());
        }
        ssl.set_cipher_list(&list.join(":")).map_err(fail)?;
        if self.strong && kind == Kind::X509 {
            ssl.set_ciphersuites("TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256").map_err(fail)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let p = |s| Priority::parse(s);
        for same in ["NORMAL", "@SYSTEM", "NORMAL:-VERS-TLS1.0:-VERS-DTLS-ALL:+ANON-DH:%SERVER_PRECEDENCE"] {
            assert_eq!(p(same), Ok(Priority::default()), "{same}");
        }
        assert!(p("SECURE192").unwrap().strong && p("PFS").unwrap().forward);
        assert!(p("NORMAL:-VERS-TLS1.3").unwrap().no_tls13);
        let only = p("NORMAL:-VERS-ALL:+VERS-TLS1.2").unwrap();
        assert!(only.no_tls13 && !only.no_tls12);
        let e = p("NORMAL:-VERS-ALL").unwrap_err();
        assert_eq!(
            e,
            "Unable to set TLS session priority to 'NORMAL:-VERS-ALL': it leaves no version of TLS"
        );
        for bad in ["", "NONE", "bogus", "NORMAL:+VERS-TLS1.1", "NORMAL:-AES-256-GCM", "NORMAL:"] {
            assert!(p(bad).is_err(), "{bad}");
        }
        assert!(p("SECURE256:-VERS-TLS1.2").unwrap().suits(Kind::Psk).is_err());
        assert!(p("SECURE256:-VERS-TLS1.2").unwrap().suits(Kind::X509).is_ok());
    }
}
