//! Fields that concern one connection and are not forwarded (RFC 9110, 7.6.1), and fields that may not be trailers
//! (6.5.1).

use crate::error::Misuse;
use crate::fields::Fields;
use crate::known::{Known, Names};

const FOR_ONE_CONNECTION: Names = Names::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::TransferEncoding,
    Known::Upgrade,
]);

/// Fields that `Connection` may not name: `Connection: host` must not remove a field that frames or routes the message.
const MAY_NOT_BE_NAMED: Names = Names::of(&[Known::Host, Known::ContentLength]);

/// Fields that may not be trailers. A field that frames, routes, modifies, authorises or describes the content has to
/// come before the content.
const NO_TRAILERS: Names = FOR_ONE_CONNECTION.with(MAY_NOT_BE_NAMED).with(Names::of(&[
    Known::Trailer,
    Known::CacheControl,
    Known::Expect,
    Known::MaxForwards,
    Known::Pragma,
    Known::Range,
    Known::IfMatch,
    Known::IfNoneMatch,
    Known::IfModifiedSince,
    Known::IfUnmodifiedSince,
    Known::IfRange,
    Known::Authorization,
    Known::ProxyAuthorization,
    Known::AuthenticationInfo,
    Known::ProxyAuthenticationInfo,
    Known::WwwAuthenticate,
    Known::ProxyAuthenticate,
    Known::Cookie,
    Known::SetCookie,
    Known::ContentEncoding,
    Known::ContentType,
    Known::ContentRange,
]));

pub(crate) fn remove_forbidden_trailers(trailers: &mut Fields) {
    trailers.remove_all(NO_TRAILERS);
}

/// The fields that `Connection` named, without those that are always removed. Trailers with these names are removed
/// too.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// In lower case, sorted. Nearly always empty.
    names: Vec<Box<[u8]>>,
}

impl Named {
    /// Reads the lists of `Connection`. The names are sorted, so that a field needs few comparisons even with a long
    /// list.
    fn of(fields: &Fields) -> Self {
        // Nearly all values are one of these, which saves 300 instructions.
        if matches!(fields.get(Known::Connection), Some(b"keep-alive" | b"Keep-Alive" | b"close"))
            && !fields.has_several(Known::Connection)
        {
            return Self::default();
        }
        let mut names: Vec<Box<[u8]>> = fields
            .elements(Known::Connection)
            .filter(|name| !name.is_empty() && !is_kept_or_removed_anyway(name))
            .map(|name| name.to_ascii_lowercase().into())
            .collect();
        names.sort_unstable();
        names.dedup();
        Self { names }
    }

    pub const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, in lower case.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().map(|name| &**name)
    }

    /// Removes the named fields from a head or from trailers.
    pub fn remove_from(&self, fields: &mut Fields) {
        if !self.is_empty() {
            fields.remove_where(|_, name| self.has(name));
        }
    }

    fn has(&self, name: &[u8]) -> bool {
        let in_lower_case = |known: &[u8]| known.iter().copied().cmp(name.iter().map(u8::to_ascii_lowercase));
        self.names.binary_search_by(|known| in_lower_case(known)).is_ok()
    }
}

fn is_kept_or_removed_anyway(name: &[u8]) -> bool {
    let known = Known::find(name);
    known.is_some_and(|known| FOR_ONE_CONNECTION.has(known) || MAY_NOT_BE_NAMED.has(known))
        || name.eq_ignore_ascii_case(b"close")
}

/// Removes the fields that concern this connection only. `te: trailers` stays, because gRPC needs it; `trailer` stays,
/// because it announces trailers that are forwarded.
pub fn remove_hop_by_hop(fields: &mut Fields) -> Result<Named, Misuse> {
    if !fields.seen().has_any(FOR_ONE_CONNECTION) {
        return Ok(Named::default());
    }
    let named = if fields.has(Known::Connection) { Named::of(fields) } else { Named::default() };
    let wants_trailers = fields.has(Known::Te)
        && fields.elements(Known::Te).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
    named.remove_from(fields);
    fields.remove_all(FOR_ONE_CONNECTION);
    if wants_trailers {
        fields.append(Known::Te, b"trailers")?;
    }
    Ok(named)
}
