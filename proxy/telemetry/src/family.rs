//! Metric families with typed label sets. This is the only file that names the `prometheus` crate.
//!
//! The crate's own `*Vec` types identify a series by a hash of its concatenated label values, without a separator and
//! without a comparison: `("ab", "c")` and `("a", "bc")` would count in one series. [`Family`] uses the label set as
//! the key of a series, and passes finished samples to the crate.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use prometheus::core::{Collector, Desc, Metric};
use prometheus::{HistogramOpts, Registry, TextEncoder, proto};

use super::labels::Labels;
use super::symbols::Symbols;

pub use prometheus::{Histogram, IntCounter, IntGauge};

/// The name and the help text of a family.
#[derive(Debug, Clone, Copy)]
pub struct About {
    pub name: &'static str,
    pub help: &'static str,
}

/// Raises a gauge by one for as long as this value lives.
#[must_use]
pub struct Held(IntGauge);

impl Held {
    pub fn of(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The number of series that the whole exposition may hold.
///
/// The last tenth is reserved for label sets without free-form values, so that a new label set is always counted
/// somewhere.
pub struct SeriesBudget {
    most: usize,
    used: AtomicUsize,
}

/// The kind of label set that needs a series.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Named,
    Other,
}

impl SeriesBudget {
    pub fn new(most: usize) -> Self {
        Self { most, used: AtomicUsize::new(0) }
    }

    fn take(&self, series: usize, claim: Claim) -> bool {
        let most = if claim == Claim::Named { self.most - self.most / 10 } else { self.most };
        let more = |used: usize| used.checked_add(series).filter(|sum| *sum <= most);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, series: usize) {
        self.used.fetch_sub(series, Ordering::Relaxed);
    }

    /// Counts series that exist even beyond the bound.
    fn take_beyond_bound(&self, series: usize) {
        self.used.fetch_add(series, Ordering::Relaxed);
    }
}

/// Registers and encodes families, in its own registry and not in the global one.
pub struct Exposition {
    registry: Registry,
    symbols: Arc<Symbols>,
    budget: Arc<SeriesBudget>,
}

impl Exposition {
    /// At most about `most_series` series; a few more may exist when the bound is reached.
    pub fn new(symbols: Arc<Symbols>, most_series: usize) -> Self {
        Self { registry: Registry::new(), symbols, budget: Arc::new(SeriesBudget::new(most_series)) }
    }

    pub fn counters<K: Labels>(&self, name: &'static str, help: &'static str) -> Family<K, IntCounter> {
        self.family(About { name, help }, MetricKind::Counter, new_counter)
    }

    pub fn gauges<K: Labels>(&self, name: &'static str, help: &'static str) -> Family<K, IntGauge> {
        self.family(About { name, help }, MetricKind::Gauge, new_gauge)
    }

    /// `buckets` are upper bounds in ascending order.
    pub fn histograms<K: Labels>(
        &self,
        name: &'static str,
        help: &'static str,
        buckets: &'static [f64],
    ) -> Family<K, Histogram> {
        self.family(About { name, help }, MetricKind::Histogram(buckets), move || new_histogram(buckets))
    }

    fn family<K: Labels, M: Metric + 'static>(
        &self,
        about: About,
        kind: MetricKind,
        fresh: impl Fn() -> M + Send + Sync + 'static,
    ) -> Family<K, M> {
        let family = Family(Arc::new(Inner {
            about,
            kind,
            desc: describe(about, &K::names()),
            fresh: Box::new(fresh),
            symbols: self.symbols.clone(),
            budget: self.budget.clone(),
            series: RwLock::default(),
        }));
        self.register(family.clone());
        family
    }

    /// Families with one series each, whose values `read` returns for every exposition. `None` leaves a family out.
    pub fn sampled<const N: usize>(
        &self,
        families: [(About, MetricKind); N],
        read: impl Fn() -> [Option<f64>; N] + Send + Sync + 'static,
    ) {
        self.budget.take_beyond_bound(N);
        let descs = families.iter().map(|(about, _)| describe(*about, &[])).collect();
        self.register(Sampled { families, descs, read });
    }

    fn register(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect("every family has a name of its own");
    }

    /// The text format, with families sorted by name and series by label values.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics are incomplete");
        }
        text
    }
}

/// The upper bounds of a histogram, each with the number of values up to it.
pub fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let sample = histogram.metric();
    let buckets = sample.get_histogram().get_bucket();
    buckets.iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect()
}

/// What the values of a family mean.
#[derive(Debug, Clone, Copy)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// How many series one label set adds to the exposition: a histogram has its buckets, `+Inf`, sum and count.
    const fn series(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            Self::Histogram(buckets) => buckets.len() + 3,
        }
    }

    const fn proto(self) -> proto::MetricType {
        match self {
            Self::Counter => proto::MetricType::COUNTER,
            Self::Gauge => proto::MetricType::GAUGE,
            Self::Histogram(_) => proto::MetricType::HISTOGRAM,
        }
    }
}

/// All series of one name. Cloning is cheap.
pub struct Family<K, M>(Arc<Inner<K, M>>);

struct Inner<K, M> {
    about: About,
    kind: MetricKind,
    desc: Desc,
    fresh: Box<dyn Fn() -> M + Send + Sync>,
    symbols: Arc<Symbols>,
    budget: Arc<SeriesBudget>,
    series: RwLock<HashMap<K, M>>,
}

impl<K, M> Clone for Family<K, M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Labels, M: Metric> Family<K, M> {
    /// The handle of the series `labels`, or of the series in which it is counted beyond the bound.
    ///
    /// This takes a lock that all threads share. The handle may be kept as long as its series is not removed.
    pub fn of(&self, labels: K) -> M {
        let known = self.0.series.read().get(&labels).cloned();
        known.unwrap_or_else(|| self.0.add(labels))
    }

    /// Calls `look` for every series.
    pub fn each(&self, mut look: impl FnMut(K, &M)) {
        // copied first: a new series must not wait
        let series: Vec<_> =
            self.0.series.read().iter().map(|(key, handle)| (*key, handle.clone())).collect();
        series.iter().for_each(|(key, handle)| look(*key, handle));
    }

    /// Removes the series that `goes` selects, and makes room for others. What a handle of such a series counts is lost.
    pub fn remove(&self, mut goes: impl FnMut(&K) -> bool) {
        let mut series = self.0.series.write();
        let before = series.len();
        series.retain(|labels, _| !goes(labels));
        self.0.budget.give_back((before - series.len()) * self.0.kind.series());
    }
}

impl<K: Labels, M: Metric> Inner<K, M> {
    fn add(&self, labels: K) -> M {
        let mut series = self.series.write();
        let key = self.key(labels, &series);
        series.entry(key).or_insert_with(|| (self.fresh)()).clone()
    }

    /// The series in which `labels` are counted: their own, that of `other`, or the one that always exists.
    fn key(&self, labels: K, series: &HashMap<K, M>) -> K {
        let (other, rest) = (labels.other(), labels.rest());
        let claims = [(labels, Claim::Named), (other, Claim::Other)];
        let granted = claims
            .into_iter()
            .find(|(key, claim)| series.contains_key(key) || self.grants(*key == other, *claim));
        granted.map_or_else(|| self.always(rest, series), |(key, _)| key)
    }

    fn grants(&self, is_other: bool, claim: Claim) -> bool {
        self.budget.take(self.kind.series(), if is_other { Claim::Other } else { claim })
    }

    fn always(&self, rest: K, series: &HashMap<K, M>) -> K {
        if !series.contains_key(&rest) {
            self.budget.take_beyond_bound(self.kind.series());
        }
        rest
    }

    fn sample(&self, labels: K, handle: &M) -> proto::Metric {
        let mut sample = handle.metric();
        let pairs = K::names().into_iter().zip(labels.values(&self.symbols));
        sample.set_label(pairs.map(|(name, value)| pair(name, value)).collect());
        sample
    }
}

impl<K: Labels, M: Metric> Collector for Family<K, M> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        // copied first: encoding 20,000 series takes milliseconds, and a new series must not wait for that
        let series: Vec<_> =
            self.0.series.read().iter().map(|(key, handle)| (*key, handle.clone())).collect();
        let mut samples = series.iter().map(|(key, handle)| self.0.sample(*key, handle)).collect();
        if K::MAY_COINCIDE {
            samples = summed(samples, self.0.kind);
        }
        vec![family(self.0.about, self.0.kind, samples)]
    }
}

/// The samples, of which those with equal labels are one.
fn summed(samples: Vec<proto::Metric>, kind: MetricKind) -> Vec<proto::Metric> {
    let mut places: HashMap<Vec<String>, usize> = HashMap::with_capacity(samples.len());
    let mut summed: Vec<proto::Metric> = Vec::with_capacity(samples.len());
    for sample in samples {
        let labels = sample.get_label().iter().map(|label| label.value().to_owned()).collect();
        let place = *places.entry(labels).or_insert(summed.len());
        match summed.get_mut(place) {
            Some(first) => add(first, &sample, kind),
            None => summed.push(sample),
        }
    }
    summed
}

fn add(to: &mut proto::Metric, sample: &proto::Metric, kind: MetricKind) {
    match kind {
        MetricKind::Counter => {
            let mut counter = to.get_counter().clone();
            counter.set_value(counter.get_value() + sample.get_counter().get_value());
            to.set_counter(counter);
        }
        MetricKind::Gauge => {
            let mut gauge = to.get_gauge().clone();
            gauge.set_value(gauge.get_value() + sample.get_gauge().get_value());
            to.set_gauge(gauge);
        }
        MetricKind::Histogram(_) => {
            let (mut histogram, other) = (to.get_histogram().clone(), sample.get_histogram());
            let mut buckets = histogram.get_bucket().to_vec();
            for (bucket, other) in buckets.iter_mut().zip(other.get_bucket()) {
                bucket.set_cumulative_count(bucket.cumulative_count() + other.cumulative_count());
            }
            histogram.set_bucket(buckets);
            histogram.set_sample_count(histogram.get_sample_count() + other.get_sample_count());
            histogram.set_sample_sum(histogram.get_sample_sum() + other.get_sample_sum());
            to.set_histogram(histogram);
        }
    }
}

struct Sampled<F, const N: usize> {
    families: [(About, MetricKind); N],
    descs: Vec<Desc>,
    read: F,
}

impl<const N: usize, F: Fn() -> [Option<f64>; N] + Send + Sync> Collector for Sampled<F, N> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let values = (self.read)();
        let known = self.families.iter().zip(values).filter_map(|(family, value)| Some((family, value?)));
        known.map(|((about, kind), value)| family(*about, *kind, vec![plain(*kind, value)])).collect()
    }
}

fn plain(kind: MetricKind, value: f64) -> proto::Metric {
    let mut sample = proto::Metric::default();
    match kind {
        MetricKind::Counter => {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        }
        MetricKind::Gauge | MetricKind::Histogram(_) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
    }
    sample
}

fn family(about: About, kind: MetricKind, samples: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(about.name.to_owned());
    family.set_help(about.help.to_owned());
    family.set_field_type(kind.proto());
    family.set_metric(samples);
    family
}

fn pair(name: &str, value: String) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

fn describe(about: About, labels: &[&str]) -> Desc {
    let labels = labels.iter().map(|name| (*name).to_owned()).collect();
    Desc::new(about.name.to_owned(), about.help.to_owned(), labels, HashMap::new())
        .expect("names of families and labels are valid words of this crate")
}

/// The crate requires a name for every handle. Only the family's name is exported; this one is short to save memory.
const PLACEHOLDER: &str = "x";

fn new_counter() -> IntCounter {
    IntCounter::new(PLACEHOLDER, PLACEHOLDER).expect("the name is valid")
}

fn new_gauge() -> IntGauge {
    IntGauge::new(PLACEHOLDER, PLACEHOLDER).expect("the name is valid")
}

fn new_histogram(buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(PLACEHOLDER, PLACEHOLDER).buckets(buckets.to_vec());
    Histogram::with_opts(options).expect("buckets are constants in ascending order")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::labels::{Label, Service};
    use crate::symbols::Symbol;
    use pillion_model::Direction;

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Route(Symbol);

    impl Label for Route {
        const NAME: &'static str = "route";

        fn value(self, symbols: &Symbols) -> String {
            symbols.name(self.0).as_ref().to_owned()
        }

        fn other(self) -> Self {
            Self(Symbol::OTHER)
        }
    }

    fn exposition(most_series: usize) -> (Exposition, Arc<Symbols>) {
        let symbols = Arc::new(Symbols::new(1_000_000));
        (Exposition::new(symbols.clone(), most_series), symbols)
    }

    fn samples(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn label_values_ab_c_and_a_bc_are_two_series() {
        let (exposition, symbols) = exposition(100);
        let family = exposition.counters::<(Service, Route)>("calls_total", "Calls.");
        let set = |service, route| (Service(symbols.intern(service)), Route(symbols.intern(route)));
        family.of(set("ab", "c")).inc_by(1);
        family.of(set("a", "bc")).inc_by(2);
        let text = exposition.encode();
        assert_eq!(
            samples(&text),
            [r#"calls_total{service="a",route="bc"} 2"#, r#"calls_total{service="ab",route="c"} 1"#]
        );
    }

    #[test]
    fn values_with_quotes_and_line_feeds_are_escaped_into_one_sample() {
        let (exposition, symbols) = exposition(100);
        exposition
            .counters::<(Service,)>("calls_total", "Calls.")
            .of((Service(symbols.intern("a\"\\\nb")),))
            .inc();
        assert_eq!(samples(&exposition.encode()), [r#"calls_total{service="a\"\\\nb"} 1"#]);
    }

    #[test]
    fn beyond_the_bound_new_label_sets_count_under_other_and_no_count_is_lost() {
        let (exposition, symbols) = exposition(100);
        let family = exposition.counters::<(Service, Route)>("calls_total", "Calls.");
        for number in 0..1_000 {
            let name = symbols.intern(&number.to_string());
            family.of((Service(name), Route(name))).inc();
        }
        let text = exposition.encode();
        assert_eq!(samples(&text).len(), 91);
        assert!(text.contains(r#"calls_total{service="other",route="other"} 910"#), "{text}");
    }

    #[test]
    fn histograms_are_bounded_by_the_series_of_their_buckets() {
        let (exposition, symbols) = exposition(60);
        let family = exposition.histograms::<(Service,)>("took_seconds", "Took.", &[0.1, 1.0]);
        for number in 0..100 {
            family.of((Service(symbols.intern(&number.to_string())),)).observe(0.5);
        }
        let text = exposition.encode();
        assert!(samples(&text).len() <= 60, "{text}");
        assert!(text.contains(r#"took_seconds_bucket{service="other",le="1"} 90"#), "{text}");
    }

    #[test]
    fn a_bound_of_zero_series_still_counts() {
        let (exposition, symbols) = exposition(0);
        let family = exposition.counters::<(Direction, Service)>("calls_total", "Calls.");
        family.of((Direction::Inbound, Service(symbols.intern("a")))).inc();
        family.of((Direction::Inbound, Service(symbols.intern("b")))).inc();
        assert_eq!(samples(&exposition.encode()), [r#"calls_total{direction="inbound",service="other"} 2"#]);
    }

    #[test]
    fn every_call_is_counted_when_threads_add_the_same_series_during_a_scrape() {
        let (exposition, symbols) = exposition(10_000);
        let family = exposition.counters::<(Service,)>("calls_total", "Calls.");
        let services: Vec<_> = (0..50).map(|number| Service(symbols.intern(&number.to_string()))).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..20).for_each(|_| services.iter().for_each(|name| family.of((*name,)).inc()))
                });
            }
            scope.spawn(|| (0..20).for_each(|_| drop(exposition.encode())));
        });
        let text = exposition.encode();
        assert_eq!(samples(&text).len(), 50);
        assert!(samples(&text).iter().all(|sample| sample.ends_with(" 80")), "{text}");
    }

    #[test]
    fn a_held_gauge_falls_when_its_holder_is_dropped() {
        let (exposition, _) = exposition(10);
        let gauge = exposition.gauges::<()>("open", "Open.").of(());
        let (first, second) = (Held::of(&gauge), Held::of(&gauge));
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert_eq!(gauge.get(), 1);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }
}
