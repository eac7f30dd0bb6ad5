/* XXH3's 64-bit hash of bytes, seed 0.
 *
 * Source: the XXH3 algorithm of Y. Collet's xxHash 0.8, whose secret and primes are in xxh3.c.
 */
#ifndef KV_XXH3_H
#define KV_XXH3_H

#include "core.h"

uint64_t kv_xxh3(const uint8_t *data, size_t length);

#endif
