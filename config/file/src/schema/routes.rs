//! `routes` as an editor sees it.

use serde_json::{Value, json};

use super::{Described, any_of, defined, left_open, list_of};
use crate::file::{
    Destination, DestinationBlock, Destinations, HeaderValue, Path, PathBlock, Route, Routes, ValueBlock,
};
use crate::words::ServiceName;
use pillion_model::cluster::HostPattern;
use pillion_model::route::RouteHost;

impl Described for Routes {
    fn described() -> Option<Value> {
        any_of([list_of(Route::described()), defined("off"), left_open()])
    }
}

impl Described for RouteHost {
    fn described() -> Option<Value> {
        any_of([Some(json!({ "enum": ["*"] })), HostPattern::described()])
    }
}

impl Described for Path {
    fn described() -> Option<Value> {
        PathBlock::described()
    }
}

impl Described for HeaderValue {
    fn described() -> Option<Value> {
        any_of([defined("header_text"), ValueBlock::described()])
    }
}

impl Described for Destination {
    fn described() -> Option<Value> {
        any_of([ServiceName::described(), left_open(), DestinationBlock::described()])
    }
}

impl Described for Destinations {
    fn described() -> Option<Value> {
        any_of([Destination::described(), list_of(Destination::described())])
    }
}
