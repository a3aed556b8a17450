/*-------------------------------------------------------------------------
 *
 * name.c
 *	  What somebody may have meant who gave a name that does not exist.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/varlena.h"

#define SHOWN 3

/* Longer names are never a slip of the finger, and the distance costs their product. */
#define MAX_COMPARED 255

PG_FUNCTION_INFO_V1(mc_raise_unknown);
PG_FUNCTION_INFO_V1(mc_nearest_names);

typedef struct Candidate
{
	char *name;
	int distance;
} Candidate;

static int
compare_candidates(const void *a, const void *b)
{
	const Candidate *left = a;
	const Candidate *right = b;

	if (left->distance != right->distance)
		return left->distance < right->distance ? -1 : 1;
	return strcmp(left->name, right->name);
}

static char *
fold(const char *name)
{
	return str_tolower(name, strlen(name), DEFAULT_COLLATION_OID);
}

/* How many letters to change, upper and lower case being the same; a name inside of the other is near. */
static int
distance(const char *folded, const char *candidate)
{
	char *other = fold(candidate);
	int folded_len = strlen(folded);
	int other_len = strlen(other);
	int result;

	if (folded_len > MAX_COMPARED || other_len > MAX_COMPARED)
		result = INT_MAX;
	else if (folded_len > 0 && (strstr(other, folded) || strstr(folded, other)))
		result = 0;
	else
		result = varstr_levenshtein(folded, folded_len, other, other_len, 1, 1, 1, true);
	pfree(other);
	return result;
}

/* The names that are not further than half of what was typed, the nearest first. */
static int
nearest(const char *name, ArrayType *names, Candidate **result)
{
	Datum *elements;
	bool *nulls;
	int n;
	int found = 0;
	char *folded = fold(name);
	Candidate *candidates;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	candidates = palloc(sizeof(Candidate) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		Candidate candidate;

		if (nulls[i])
			continue;
		candidate.name = TextDatumGetCString(elements[i]);
		candidate.distance = distance(folded, candidate.name);
		if (candidate.distance <= (int) strlen(name) / 2)
			candidates[found++] = candidate;
	}
	qsort(candidates, found, sizeof(Candidate), compare_candidates);
	*result = candidates;
	return Min(found, SHOWN);
}

/* The hint for a name that does not exist, NULL if no other is near. */
static char *
nearest_hint(const char *name, ArrayType *names)
{
	Candidate *candidates;
	int n = nearest(name, names, &candidates);
	StringInfoData hint;

	if (n == 0)
		return NULL;
	initStringInfo(&hint);
	appendStringInfoString(&hint, "Perhaps you meant ");
	for (int i = 0; i < n; i++)
		appendStringInfo(&hint, "%s\"%s\"",
						 i == 0		  ? ""
						 : i == n - 1 ? " or "
									  : ", ",
						 candidates[i].name);
	appendStringInfoChar(&hint, '.');
	return hint.data;
}

/*
 * raise_unknown(_kind text, _name text, _candidates text[]): the caller has made
 * sure that the candidates may be shown.
 */
Datum
mc_raise_unknown(PG_FUNCTION_ARGS)
{
	char *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *name = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	char *hint = NULL;

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", kind)));
	if (!PG_ARGISNULL(2))
		hint = nearest_hint(name, PG_GETARG_ARRAYTYPE_P(2));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("%s \"%s\" does not exist", kind, name),
			 hint != NULL ? errhint("%s", hint) : 0));
	PG_RETURN_VOID();
}

/* nearest_names(_name text, _candidates text[]): what raise_unknown says in its hint */
Datum
mc_nearest_names(PG_FUNCTION_ARGS)
{
	char *hint = nearest_hint(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_ARRAYTYPE_P(1));

	if (hint == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(hint));
}
