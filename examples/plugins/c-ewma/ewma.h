// How many deviations a value is away from a mean in which the past fades (an
// exponentially weighted moving average). Plain C, tested without a hub.
#pragma once

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A deviation is never taken for less than this share of the mean, …
#define DEVIATION_SHARE_MIN 1e-4
// … or than this.
#define DEVIATION_MIN 1e-9
// A deviation is told up to this.
#define Z_MAX 1e6
// The longest row that is saved: a number, a count and two times 24 characters.
#define ROW_BYTES_MAX 80

typedef struct {
  double alpha, threshold, warm_up;
} ewma_config_t;

typedef struct {
  uint32_t id, count;
  double mean, variance;
} ewma_known_t;

// By rising id, as the values come.
typedef struct {
  ewma_known_t *ptr;
  size_t len, room;
} ewma_list_t;

typedef struct {
  double z, score, mean, lower, upper;
} ewma_judged_t;

// Reads `{"alpha": 0.1, …}`. What is wrong with it, or NULL.
static inline const char *ewma_configure(const char *json, ewma_config_t *config) {
  ewma_config_t read = {.alpha = 0.1, .threshold = 4, .warm_up = 20};
  const char *at = json + strspn(json, " \n\t{");
  while (*at == '"') {
    double *key = strncmp(at, "\"alpha\"", 7) == 0       ? &read.alpha
                  : strncmp(at, "\"threshold\"", 11) == 0 ? &read.threshold
                  : strncmp(at, "\"warm_up\"", 9) == 0    ? &read.warm_up
                                                          : NULL;
    if (key == NULL) return "[config] has a key that is not alpha, threshold or warm_up";
    const char *number = strchr(at, ':');
    char *end = NULL;
    if (number != NULL) *key = strtod(number + 1, &end);
    if (end == NULL || end == number + 1) return "[config] alpha, threshold and warm_up are numbers";
    at = end + strspn(end, " \n\t,");
  }
  if (*at != '}') return "[config] alpha, threshold and warm_up are numbers";
  if (!(read.alpha > 0 && read.alpha <= 1)) return "[config] alpha must be above 0 and at most 1";
  if (!(read.threshold > 0)) return "[config] threshold must be above 0";
  if (!(read.warm_up >= 2)) return "[config] warm_up must be 2 or more";
  *config = read;
  return NULL;
}

// What is known of a series; nothing yet if it is new.
static inline ewma_known_t *ewma_find(ewma_list_t *list, uint32_t id) {
  size_t low = 0, high = list->len;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (list->ptr[middle].id < id) low = middle + 1;
    else high = middle;
  }
  if (low < list->len && list->ptr[low].id == id) return &list->ptr[low];
  if (list->len == list->room) {
    list->room = list->room ? 2 * list->room : 64;
    list->ptr = realloc(list->ptr, list->room * sizeof *list->ptr);
    if (list->ptr == NULL) abort(); // The hub's memory limit: it starts another instance.
  }
  memmove(&list->ptr[low + 1], &list->ptr[low], (list->len++ - low) * sizeof *list->ptr);
  list->ptr[low] = (ewma_known_t){.id = id};
  return &list->ptr[low];
}

static inline void ewma_forget(ewma_list_t *list, uint32_t id) {
  for (size_t i = 0; i < list->len; i++) {
    if (list->ptr[i].id != id) continue;
    memmove(&list->ptr[i], &list->ptr[i + 1], (--list->len - i) * sizeof *list->ptr);
    return;
  }
}

static inline ewma_judged_t ewma_judge(const ewma_known_t *known, double value, double threshold) {
  double least = fmax(DEVIATION_MIN, DEVIATION_SHARE_MIN * fabs(known->mean));
  double deviation = fmax(sqrt(known->variance), least);
  double z = fmin(fmax((value - known->mean) / deviation, -Z_MAX), Z_MAX);
  double band = threshold * deviation;
  return (ewma_judged_t){
      .z = z,
      .score = fabs(z) / (fabs(z) + threshold),
      .mean = known->mean,
      .lower = known->mean - band,
      .upper = known->mean + band,
  };
}

static inline void ewma_learn(ewma_known_t *known, double value, double alpha) {
  double difference = value - known->mean;
  double step = alpha * difference;
  double mean = known->mean + step;
  double variance = (1 - alpha) * (known->variance + difference * step);
  if (known->count == 0 || !isfinite(mean) || !isfinite(variance)) {
    *known = (ewma_known_t){.id = known->id, .count = 1, .mean = value};
  } else {
    *known = (ewma_known_t){known->id, known->count + 1, mean, variance};
  }
}

// `[[id, count, mean, variance], …]` in JSON, as the other languages save it.
// The text is the caller's to free.
static inline char *ewma_save(const ewma_list_t *list, size_t *length) {
  char *text = malloc(list->len * ROW_BYTES_MAX + 3), *at = text;
  if (text == NULL) abort();
  *at++ = '[';
  for (size_t i = 0; i < list->len; i++) {
    const ewma_known_t *known = &list->ptr[i];
    at += sprintf(at, "%s[%u,%u,%.17g,%.17g]", i ? "," : "", (unsigned)known->id,
                  (unsigned)known->count, known->mean, known->variance);
  }
  *at++ = ']';
  *at = 0;
  *length = (size_t)(at - text);
  return text;
}

// Takes rows as long as they make sense.
static inline void ewma_restore(ewma_list_t *list, const char *text) {
  for (const char *row = strchr(text, '['); row != NULL;) {
    row = strchr(row + 1, '[');
    if (row == NULL) return;
    double parts[4];
    char *at = (char *)row;
    for (int i = 0; i < 4; i++) {
      char *from = at + 1;
      parts[i] = strtod(from, &at);
      if (at == from || !isfinite(parts[i])) return;
    }
    if (parts[0] < 0 || parts[0] > UINT32_MAX || parts[1] < 0 || parts[1] > UINT32_MAX) return;
    ewma_known_t *known = ewma_find(list, (uint32_t)parts[0]);
    *known = (ewma_known_t){(uint32_t)parts[0], (uint32_t)parts[1], parts[2], parts[3]};
    row = at;
  }
}
