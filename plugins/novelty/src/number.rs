//! Arithmetic that is the same on every machine: only what IEEE 754 rounds
//! exactly, and logarithms from the bits of a number.

/// The largest distance that is told apart: far from where squares overflow.
const DISTANCE_MAX: f64 = 1e17;

/// Rounds a distance to four bytes; never to infinity or NaN.
pub fn narrow(distance: f64) -> f32 {
    if distance.is_nan() { 0.0 } else { distance.clamp(-DISTANCE_MAX, DISTANCE_MAX) as f32 }
}

/// The binary logarithm of a positive number, to about 0.0001: the exponent,
/// and a rational approximation for the mantissa.
pub fn log2(x: f32) -> f32 {
    let bits = x.max(f32::MIN_POSITIVE).to_bits();
    let exponent = (bits >> 23) as f32 - 127.0;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    // ln m = 2 artanh((m - 1) / (m + 1)), of which three terms.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let series = t * (2.0 + square * (2.0 / 3.0 + square * (2.0 / 5.0 + square * (2.0 / 7.0))));
    exponent + series * std::f32::consts::LOG2_E
}

/// The natural logarithm of a positive number, to about 0.0001.
pub fn ln(x: f32) -> f32 {
    log2(x) * std::f32::consts::LN_2
}

/// -log10 of the upper tail of the normal distribution from `z` on, to a few
/// hundredths: 0.3 at 0, about 9 at 6, and at most 30.
pub fn tail(z: f32) -> f32 {
    if z <= 0.0 {
        return 0.301;
    }
    // The Chernoff-like form Q(z) = exp(-z^2/2) / (z + sqrt(z^2 + 8/pi)) * sqrt(2/pi).
    let scale = (z + (z * z + 2.546_479).sqrt()) * 1.253_314_1;
    let logarithm = z * z * 0.5 + ln(scale);
    (logarithm * std::f32::consts::LOG10_E).min(30.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_near_the_true_ones() {
        for exponent in -30..=30_i16 {
            for part in 0..100_u8 {
                let x = 2.0_f64.powi(exponent.into()) * (1.0 + f64::from(part) / 100.0);
                assert!((f64::from(log2(x as f32)) - x.log2()).abs() < 2e-4, "{x}");
            }
        }
        assert!(log2(0.0).is_finite() && ln(-1.0).is_finite());
    }

    #[test]
    fn the_tail_is_near_that_of_the_normal_distribution() {
        for (z, upper) in [(0.0, 0.5), (1.0, 0.158_655), (2.0, 0.022_75), (4.0, 3.167e-5)] {
            let expected = -f64::log10(upper);
            assert!((f64::from(tail(z)) - expected).abs() < 0.05, "{z}: {}", tail(z));
        }
        assert_eq!(tail(100.0), 30.0);
        assert!(tail(f32::NAN) >= 0.0);
    }

    #[test]
    fn what_is_narrowed_is_finite() {
        for distance in [f64::NAN, f64::INFINITY, f64::MIN, 1e300, -1e18] {
            assert!(narrow(distance).is_finite());
        }
        assert_eq!(narrow(2.5), 2.5);
    }
}
