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
	cJSON *lists;
	cJSON *templates;
	cJSON *domains;
	List *list_fields; /* of McListFields */
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
