// cc test/test.c -o build/test && build/test

#include <stdio.h>

#include "../interrupts.h"

static void check(bool holds, const char *fact) {
  printf("%s: %s\n", holds ? "ok" : "NOT", fact);
  if (!holds) exit(EXIT_FAILURE);
}

int main(void) {
  const char *text = "           CPU0       CPU1\n"
                     "  0:         36          4   IO-APIC   2-edge      timer\n"
                     "nonsense\n"
                     "NMI:          1          2   Non-maskable interrupts\n"
                     "ERR:          7\n";
  int cores = interrupts_cores(&text);
  check(cores == 2, "the head line names the cores");
  interrupt_t found;
  check(interrupts_next(&text, cores, &found) && found.count == 40, "the cores are added up");
  check(strcmp(found.irq, "0") == 0 && strcmp(found.device, "IO-APIC 2-edge timer") == 0,
        "the device is told");
  check(interrupts_next(&text, cores, &found) && found.count == 3, "nonsense is passed over");
  check(interrupts_next(&text, cores, &found) && found.count == 7 && found.device[0] == 0,
        "a line may have fewer numbers and no device");
  check(!interrupts_next(&text, cores, &found), "then it ends");
  const char *empty = "";
  check(interrupts_cores(&empty) == 0 && !interrupts_next(&empty, 0, &found), "nothing is nothing");
}
