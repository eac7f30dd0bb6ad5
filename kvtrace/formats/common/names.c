/* Keys of names: see names.py. */
#include "names.h"
#include "../../trace/cell.h"
#include "xxh3.h"

#define DIGITS 16
#define UNTOLD KV_TIERS

static const char *const tier_words[KV_TIERS] = {"gpu", "cpu", "nvme", "object"};

struct kv_naming {
	const uint8_t *prefix;   /* of own names; NULL: none was met */
	int64_t prefix_bytes;
	uint64_t *met;           /* hashes that were met lately, at the place of their lower bits */
	uint64_t met_mask;
};

KV_SIZE(parts, struct kv_parts)
KV_SIZE(naming, struct kv_naming)

/* Whether the last 16 bytes are hex digits, and what they say. */
static bool digits(const uint8_t *name, int64_t length, uint64_t *value)
{
	*value = 0;
	if (length < DIGITS)
		return false;
	for (const uint8_t *at = name + length - DIGITS; at < name + length; at++) {
		if (*at >= '0' && *at <= '9')
			*value = *value << 4 | (uint64_t)(*at - '0');
		else if (*at >= 'a' && *at <= 'f')
			*value = *value << 4 | (uint64_t)(*at - 'a' + 10);
		else
			return false;
	}
	return true;
}

/* The tier whose word and a slash end a part of a name, UNTOLD if none does; cut both off. */
static int tier_before(const uint8_t *name, int64_t *length)
{
	if (!*length || name[*length - 1] != '/')
		return UNTOLD;
	for (int tier = 0; tier < KV_TIERS; tier++) {
		int64_t bytes = (int64_t)strlen(tier_words[tier]);
		int64_t at = *length - 1 - bytes;

		if (at >= 0 && !memcmp(name + at, tier_words[tier], (size_t)bytes)) {
			*length = at;
			return tier;
		}
	}
	return UNTOLD;
}

/* Where the prefix of the first name ends that ends in 16 hex digits, or −1; `row`: that name.
 * −2: a part isn't within the bytes. */
KV_EXPORT int64_t kv_names_prefix(const struct kv_parts *names, int64_t *row)
{
	uint64_t value;

	if (!kv_parts_fit(names))
		return -2;
	for (int64_t i = 0; i < names->count; i++) {
		const uint8_t *name = names->data + names->begin[i];
		int64_t length = names->end[i] - names->begin[i];

		if (!digits(name, length, &value))
			continue;
		length -= DIGITS;
		tier_before(name, &length);
		*row = i;
		return names->begin[i] + length;
	}
	return -1;
}

/* Whether an export here made the name; then its key, and its tier unless that is UNTOLD. */
static bool is_ours(const struct kv_naming *naming, const uint8_t *name, int64_t length,
		    uint64_t *key, int *tier)
{
	if (!naming->prefix || !digits(name, length, key))
		return false;
	length -= DIGITS;
	*tier = tier_before(name, &length);
	return length == naming->prefix_bytes && !memcmp(name, naming->prefix, (size_t)length);
}

/* Fill in keys, and the tiers that own names tell; return how many rows are `fresh`: hashed, and
 * not met lately. −1: a part isn't within the bytes. */
KV_EXPORT int64_t kv_names_keys(struct kv_naming *naming, const struct kv_parts *names,
				uint64_t *keys, uint8_t *tiers, int64_t *fresh)
{
	int64_t count = 0;

	if (!kv_parts_fit(names))
		return -1;
	for (int64_t i = 0; i < names->count; i++) {
		const uint8_t *name = names->data + names->begin[i];
		int64_t length = names->end[i] - names->begin[i];
		int tier = UNTOLD;
		uint64_t *met;

		if (is_ours(naming, name, length, &keys[i], &tier)) {
			if (tier != UNTOLD)
				tiers[i] = (uint8_t)tier;
			continue;
		}
		keys[i] = kv_xxh3(name, (size_t)length);
		met = &naming->met[keys[i] & naming->met_mask];
		if (*met != keys[i]) {
			*met = keys[i];
			fresh[count++] = i;
		}
	}
	return count;
}

/* Copy parts one behind the other; return false if they aren't within, or longer than `room`. */
KV_EXPORT bool kv_names_copy(const struct kv_parts *names, uint8_t *copied, int64_t room)
{
	int64_t at = 0;

	if (!kv_parts_fit(names))
		return false;
	for (int64_t i = 0; i < names->count; i++) {
		int64_t length = names->end[i] - names->begin[i];

		if (length > room - at)
			return false;
		if (length)
			memcpy(copied + at, names->data + names->begin[i], (size_t)length);
		at += length;
	}
	return true;
}
