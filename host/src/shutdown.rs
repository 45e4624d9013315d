//! The stop signal: one [`Stop`] fires it, any number of [`Shutdown`]s hear it.

use tokio::sync::watch;

/// Fires the signal when told to, or when dropped.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>);

/// Hears the signal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// A signal and who hears it.
#[must_use]
pub fn channel() -> (Stop, Shutdown) {
    let (stop, shutdown) = watch::channel(false);
    (Stop(stop), Shutdown(shutdown))
}

impl Stop {
    /// Fires the signal.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Waits until the signal fires. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means that the `Stop` was dropped, which counts.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether the signal has fired.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
