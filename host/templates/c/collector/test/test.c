// cc test/test.c -o build/test && build/test

#include <stdio.h>
#include <stdlib.h>

#include "../dice.h"

int main(void) {
  for (uint64_t tick = 0; tick < 1000; tick++) {
    if (dice_roll(tick) < 1 || dice_roll(tick) > 6) {
      fprintf(stderr, "tick %d: %f is no roll of a die\n", (int)tick, dice_roll(tick));
      return EXIT_FAILURE;
    }
  }
  puts("ok: a roll is from one to six");
}
