// What {{name}} measures: plain C, tested without a hub.
#pragma once

#include <stdint.h>

static inline double dice_roll(uint64_t tick) {
  return (double)(((tick * 2654435761u) >> 16) % 6 + 1);
}
