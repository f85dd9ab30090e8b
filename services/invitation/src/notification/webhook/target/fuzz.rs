//! Fuzz tests of URLs of webhooks.

#[path = "../../../../../../tests/fuzz/input.rs"]
#[expect(dead_code, reason = "each fuzz test uses a part of it")]
mod input;

use std::net::Ipv4Addr;

use bolero::check;

use self::input::Input;
use super::*;

/// An allowed URL whose host is an address is a public unicast address by the classification of the standard
/// library, in every spelling.
#[test]
fn an_allowed_address_is_public() {
    let samples = [
        "https://93.184.215.14/hook?x=1",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/",
        "https://127.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "https://0x7f.1:443/",
        "https://hooks.example/a/../b",
        "https://\u{ff11}27.0.0.1/",
    ];
    check!().with_type::<Input>().for_each(|input| {
        let text = input.text(&samples);
        let Ok(target) = Target::parse(&text) else { return };
        assert!(target.url.username().is_empty() && target.url.password().is_none());
        let reparsed = Target::parse(target.url.as_str()).unwrap();
        assert_eq!(target.url, reparsed.url, "{text:?} has two meanings");
        let Some(ip) = ip_address(&target) else { return };
        if let Ok(allowed) = target.check(&[ip], &Exceptions::default()) {
            assert_eq!((target.url.scheme(), target.port), ("https", 443));
            assert!(allowed.iter().all(|it| is_public(it.ip())), "{text:?}: {allowed:?}");
        }
    });
}

/// Every numeric address is public or refused.
#[test]
fn a_numeric_address_is_public_or_refused() {
    let target = Target::parse("https://hooks.example/").unwrap();
    check!().with_type::<(u128, u8)>().for_each(|(bits, prefix)| {
        // Special prefixes are as likely as the rest of the address space.
        let high = [0, 0x64_ff9b << 96, 0x2001 << 112, 0x2002 << 112, 0xfe80 << 112, 0xffff << 32];
        let v6 = high[usize::from(*prefix) % high.len()] | (bits >> (prefix % 100));
        let v4 = Ipv4Addr::from(u32::try_from(bits & 0xffff_ffff).unwrap());
        for ip in [IpAddr::V6(v6.into()), IpAddr::V4(v4)] {
            if target.check(&[ip], &Exceptions::default()).is_ok() {
                assert!(is_public(ip), "{ip}");
            }
        }
    });
}

/// Classification by the standard library.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(it) => {
            let is_own_host = it.is_loopback() || it.is_unspecified() || it.is_broadcast();
            let is_local = it.is_private() || it.is_link_local();
            !(is_own_host || is_local || it.is_multicast() || it.is_documentation())
        }
        IpAddr::V6(it) => {
            let embedded_is_public = it.to_ipv4().is_none_or(|it| is_public(it.into()));
            let is_own_host = it.is_loopback() || it.is_unspecified();
            embedded_is_public
                && !(is_own_host
                    || it.is_unique_local()
                    || it.is_unicast_link_local()
                    || it.is_multicast())
        }
    }
}
