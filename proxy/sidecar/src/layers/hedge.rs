//! Two tries of one request side by side, of which the first good one wins.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// How two tries ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Raced<T> {
    /// The first try was good, and the second one is not needed.
    First(T),
    Second(T),
    /// Neither was good.
    Neither(T, T),
}

/// Waits for the first result that is good. Dropping this future drops neither try.
pub async fn race<T>(
    mut first: Pin<&mut impl Future<Output = T>>,
    mut second: Pin<&mut impl Future<Output = T>>,
    is_good: impl Fn(&T) -> bool,
) -> Raced<T> {
    let (mut bad_first, mut bad_second) = (None, None);
    poll_fn(move |cx| {
        if bad_first.is_none()
            && let Poll::Ready(ended) = first.as_mut().poll(cx)
        {
            if is_good(&ended) {
                return Poll::Ready(Raced::First(ended));
            }
            bad_first = Some(ended);
        }
        if bad_second.is_none()
            && let Poll::Ready(ended) = second.as_mut().poll(cx)
        {
            if is_good(&ended) {
                return Poll::Ready(Raced::Second(ended));
            }
            bad_second = Some(ended);
        }
        match (bad_first.take(), bad_second.take()) {
            (Some(first), Some(second)) => Poll::Ready(Raced::Neither(first, second)),
            (first, second) => {
                (bad_first, bad_second) = (first, second);
                Poll::Pending
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    async fn after(seconds: u64, result: i32) -> i32 {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        result
    }

    /// Good results are above zero.
    async fn raced(first: (u64, i32), second: (u64, i32)) -> Raced<i32> {
        let (first, second) = (pin!(after(first.0, first.1)), pin!(after(second.0, second.1)));
        race(first, second, |result| *result > 0).await
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_result_wins_and_a_bad_one_waits_for_the_other() {
        assert_eq!(raced((1, 1), (2, 2)).await, Raced::First(1));
        assert_eq!(raced((2, 1), (1, 2)).await, Raced::Second(2));
        assert_eq!(raced((1, 1), (1, 2)).await, Raced::First(1));
        assert_eq!(raced((1, -1), (2, 2)).await, Raced::Second(2));
        assert_eq!(raced((2, 1), (1, -2)).await, Raced::First(1));
        assert_eq!(raced((2, -1), (1, -2)).await, Raced::Neither(-1, -2));
    }
}
