/*-------------------------------------------------------------------------
 *
 * account.h
 *	  What Mailchimp shows of an account.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MC_ACCOUNT_H
#define MC_ACCOUNT_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "engine.h"

/* What an account has, part by part, in the order in which it is asked for. */
typedef enum McAccountPart
{
	MC_LISTS,
	MC_TEMPLATES,
	MC_DOMAINS,
	MC_FIELDS /* of a list */
} McAccountPart;

/* The part that the table mailchimp_sync.refresh calls so. */
extern McAccountPart mc_account_part(const char *what);

/* The rows in an answer to part_path(); raises where there are none. */
extern const cJSON *mc_account_rows(McAccountPart part, const cJSON *answer);

/* Stores rows, without taking away what is not among them. list_id: of fields. */
extern void mc_account_store_rows(McAccountPart part, const char *connection, const char *list_id,
								  const cJSON *rows);

/* The same for all rows that there are: what is not among them is gone. */
extern void mc_account_store_part(McAccountPart part, const char *connection, const char *list_id,
								  const cJSON *rows);

/* What the rows are known by. */
extern McArg mc_account_ids(McAccountPart part, const cJSON *rows);

/* Does nothing follow on a page with these rows? */
extern bool mc_account_is_last(McAccountPart part, const cJSON *rows);

typedef struct McListFields
{
	char *list_id;
	cJSON *fields; /* array */
} McListFields;

/* Arrays are NULL where Mailchimp does not show them to the key's user. */
typedef struct McAccount
{
	char *account_name;
	cJSON *root;
	cJSON *rows[MC_FIELDS]; /* of the parts before */
	List *list_fields;		/* of McListFields */
} McAccount;

/*
 * Asks for everything, with the merge fields of the given lists; touches no table. NULL if
 * all went well, else the answer that says what did not.
 */
extern McReply *
mc_account_ask(const McConnection *connection, const List *list_ids, McAccount *account);

/*
 * Stores it and marks the connection as working. Another account than before raises, or with
 * switch_account makes everything forgotten that belongs to the other. The caller has SPI
 * connected and is the extension's owner.
 */
extern void
mc_account_store(const McConnection *connection, const McAccount *account, bool switch_account);

#endif /* MC_ACCOUNT_H */
