// Reads the text of /proc/interrupts. Plain C, tested without a hub.
#pragma once

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// A line: what interrupts, and how often it did on all cores together.
typedef struct {
  char irq[32], device[64];
  double count;
} interrupt_t;

// How many cores the head line names; `text` goes on behind it.
static inline int interrupts_cores(const char **text) {
  int cores = 0;
  const char *end = strchr(*text, '\n');
  for (const char *at = *text; end != NULL && (at = strstr(at, "CPU")) != NULL && at < end; at += 3)
    cores++;
  *text = end == NULL ? "" : end + 1;
  return cores;
}

// Takes the next line; false at the end. One that makes no sense is passed over.
static inline bool interrupts_next(const char **text, int cores, interrupt_t *found) {
  while (**text != 0) {
    const char *line = *text + strspn(*text, " ");
    const char *end = line + strcspn(line, "\n");
    *text = *end == 0 ? end : end + 1;
    size_t name = strcspn(line, ":");
    if (line + name >= end || name == 0 || name >= sizeof found->irq) continue;
    *found = (interrupt_t){0};
    memcpy(found->irq, line, name);
    const char *at = line + name + 1;
    for (int core = 0; core < cores; core++) {
      const char *number = at + strspn(at, " ");
      if (number >= end || !isdigit((unsigned char)*number)) break;
      char *after;
      found->count += strtod(number, &after);
      at = after;
    }
    // The rest says which device it is, in columns.
    for (size_t length = 0; at < end && length < sizeof found->device - 1; at++) {
      bool blank = *at == ' ' || iscntrl((unsigned char)*at);
      if (!blank) found->device[length++] = *at;
      else if (length > 0 && found->device[length - 1] != ' ' && at[1] != ' ' && at + 1 < end)
        found->device[length++] = ' ';
    }
    return true;
  }
  return false;
}
