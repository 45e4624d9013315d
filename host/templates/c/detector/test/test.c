// cc test/test.c -o build/test && build/test

#include <stdio.h>
#include <stdlib.h>

#include "../limit.h"

int main(void) {
  if (limit_score(0) != 0 || limit_score(LIMIT) != 0.5 || limit_score(-1) != 0) {
    fputs("the score is not what it should be\n", stderr);
    return EXIT_FAILURE;
  }
  puts("ok: a value at the limit is a finding");
}
