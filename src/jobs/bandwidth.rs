//! A limit on how fast a job moves bytes to and from its repository.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Kind, Result};

/// A bucket that saves nothing: bytes are let through, and whoever comes next waits until the limit would have passed
/// them. So `n` bytes never take less than `n / limit` seconds, however many pieces move them side by side.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: f64,
    free_at: Mutex<Instant>,
}

impl Bandwidth {
    /// A limit of so many MiB per second.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] where that is not above 0.
    pub fn new(mib_per_second: f64) -> Result<Self> {
        if !(mib_per_second.is_finite() && mib_per_second > 0.0) {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!("bandwidth_limit_mib has to be above 0, not {mib_per_second}"),
            ));
        }
        Ok(Self { bytes_per_second: mib_per_second * f64::from(1 << 20), free_at: Mutex::new(Instant::now()) })
    }

    /// Waits until `bytes` more have had their time.
    pub async fn pass(&self, bytes: u64) {
        #[allow(clippy::cast_precision_loss)] // a duration
        let needs = Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_second).unwrap_or(Duration::MAX);
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            // A limit so low that the time cannot be told means a wait that only ends with the job.
            let until = (*free_at).max(Instant::now()).checked_add(needs);
            *free_at = until.unwrap_or(*free_at);
            until
        };
        match until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_at_least_the_time_that_the_limit_implies_side_by_side_too() {
        let limit = Bandwidth::new(4.0).unwrap();
        let begun = Instant::now();
        let small = async {
            for _ in 0..4 {
                limit.pass(64 << 10).await;
            }
        };
        tokio::join!(small, limit.pass(256 << 10));
        assert!(begun.elapsed() >= Duration::from_millis(125)); // 512 KiB
    }

    #[tokio::test]
    async fn time_in_which_nothing_moved_is_not_saved_up() {
        let limit = Bandwidth::new(1.0).unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
        let begun = Instant::now();
        limit.pass(64 << 10).await;
        assert!(begun.elapsed() >= Duration::from_micros(62_500));
    }

    #[test]
    fn a_limit_has_to_be_above_zero() {
        for limit in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Bandwidth::new(limit).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }
}
