// What every collector in C repeats: a batch that grows. Yours to change.
#pragma once

#include <stdlib.h>

#include "collector.h"

typedef exports_telltale_plugin_collect_batch_t batch_t;
typedef exports_telltale_plugin_collect_fault_t fault_t;

// Room for one more element of `size` bytes: doubled when a power of two is full.
static inline void *batch_grow(void *list, size_t length, size_t size) {
  if ((length & (length - 1)) != 0) return list;
  void *grown = realloc(list, (length ? 2 * length : 1) * size);
  if (grown == NULL) abort(); // The hub's memory limit: it starts another instance.
  return grown;
}

// Tells of a new series. Its labels are up to 16 pairs, `{"irq", "8", NULL}`.
static inline void batch_declare(batch_t *batch, uint32_t id, telltale_plugin_types_kind_t kind,
                                 const char *name, const char *unit, const char *description,
                                 const char *const *labels) {
  batch->declare.ptr =
      batch_grow(batch->declare.ptr, batch->declare.len, sizeof *batch->declare.ptr);
  exports_telltale_plugin_collect_declaration_t *declared =
      &batch->declare.ptr[batch->declare.len++];
  *declared = (exports_telltale_plugin_collect_declaration_t){.id = id, .series.kind = kind};
  collector_string_dup(&declared->series.name, name);
  collector_string_dup(&declared->series.unit, unit);
  collector_string_dup(&declared->series.description, description);
  if (labels == NULL || labels[0] == NULL) return;
  telltale_plugin_types_list_label_t *list = &declared->series.labels;
  list->ptr = calloc(16, sizeof *list->ptr);
  for (; labels[0] != NULL && list->len < 16; labels += 2) {
    collector_string_dup(&list->ptr[list->len].key, labels[0]);
    collector_string_dup(&list->ptr[list->len++].value, labels[1]);
  }
}

// The value of a series at this tick.
static inline void batch_set(batch_t *batch, uint32_t id, double value) {
  batch->ids.ptr = batch_grow(batch->ids.ptr, batch->ids.len, sizeof *batch->ids.ptr);
  batch->ids.ptr[batch->ids.len++] = id;
  batch->values.ptr = batch_grow(batch->values.ptr, batch->values.len, sizeof *batch->values.ptr);
  batch->values.ptr[batch->values.len++] = value;
}

// A series that has ended: its number may be declared anew in a later batch.
static inline void batch_end(batch_t *batch, uint32_t id) {
  batch->gone.ptr = batch_grow(batch->gone.ptr, batch->gone.len, sizeof *batch->gone.ptr);
  batch->gone.ptr[batch->gone.len++] = id;
}

// What is needed isn't there just now: `return batch_retry(err, "…")`.
static inline bool batch_retry(fault_t *err, const char *words) {
  err->tag = TELLTALE_PLUGIN_TYPES_FAULT_RETRY;
  collector_string_dup(&err->val.retry, words);
  return false;
}
