//! The cryptography of HTTP clients, which are built without one of their own and take the process's.

use std::sync::Once;

/// Makes ring the process's, unless another part of it has chosen already, which serves as well.
pub(crate) fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
