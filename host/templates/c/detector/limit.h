// What {{name}} finds odd: plain C, tested without a hub.
#pragma once

// Above this a value is odd.
#define LIMIT 1e9

// From 0 to 1; 0.5 at the limit, where a value becomes a finding.
static inline double limit_score(double value) {
  return value > 0 ? value / (value + LIMIT) : 0;
}
