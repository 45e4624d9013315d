// The collector `interrupts`: how often each device interrupts the machine.

#include <stdio.h>

#include "batch.h"
#include "interrupts.h"

// More lines than any machine has, and the text of as many on 64 cores.
#define SERIES_MAX 512
#define TEXT_BYTES_MAX (1 << 20)

// The place is the series' number; one without a name is free.
static struct {
  char irq[32];
  bool seen;
} slots[SERIES_MAX];

bool exports_telltale_plugin_collect_configure(collector_string_t *config_json, fault_t *err) {
  (void)err;
  collector_string_free(config_json);
  return true;
}

// The number of what interrupts, which is declared if it is new; SERIES_MAX if
// there are too many.
static uint32_t number_of(batch_t *batch, const interrupt_t *interrupt) {
  uint32_t place = SERIES_MAX;
  for (uint32_t i = 0; i < SERIES_MAX; i++) {
    if (strcmp(slots[i].irq, interrupt->irq) == 0) return i;
    if (slots[i].irq[0] == 0 && place == SERIES_MAX) place = i;
  }
  if (place == SERIES_MAX) return place;
  strcpy(slots[place].irq, interrupt->irq);
  const char *labels[] = {"irq", interrupt->irq, "device", interrupt->device, NULL};
  batch_declare(batch, place, TELLTALE_PLUGIN_TYPES_KIND_COUNTER, "system.interrupts",
                "{interrupt}", "How often the device has interrupted the machine", labels);
  return place;
}

// What was not seen has ended. Its place is free from the next batch on.
static void end_unseen(batch_t *batch) {
  for (uint32_t i = 0; i < SERIES_MAX; i++) {
    if (slots[i].irq[0] != 0 && !slots[i].seen) {
      batch_end(batch, i);
      slots[i].irq[0] = 0;
    }
    slots[i].seen = false;
  }
}

bool exports_telltale_plugin_collect_collect(exports_telltale_plugin_collect_tick_t *tick,
                                             batch_t *batch, fault_t *err) {
  (void)tick;
  static char buffer[TEXT_BYTES_MAX];
  FILE *file = fopen("/proc/interrupts", "r");
  if (file == NULL) {
    return batch_retry(err, "/proc/interrupts can't be read: add `read = [\"/proc\"]` to [grant]");
  }
  buffer[fread(buffer, 1, sizeof buffer - 1, file)] = 0;
  fclose(file);

  *batch = (batch_t){0};
  const char *text = buffer;
  int cores = interrupts_cores(&text);
  for (interrupt_t interrupt; interrupts_next(&text, cores, &interrupt);) {
    uint32_t id = number_of(batch, &interrupt);
    if (id == SERIES_MAX || slots[id].seen) continue;
    slots[id].seen = true;
    batch_set(batch, id, interrupt.count);
  }
  end_unseen(batch);
  return true;
}
