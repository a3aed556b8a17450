/*-------------------------------------------------------------------------
 *
 * account.c
 *	  What Mailchimp shows of an account: who it is, its lists with their merge
 *	  fields, its templates and its sending domains.
 *
 * Asking comes first and touches no table; storing is a handful of set-based
 * statements at the end (the functions store_* in connection.sql). So nothing
 * of ours is locked while we wait for the network, and an answer that is
 * missing leaves everything as it was.
 *
 * A page is followed by the next until one is short: total_items is not
 * reliable everywhere (API.md).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "account.h"
#include "ask.h"

#define PAGE_SIZE 1000

#define ROOT_PATH "/?fields=account_id,account_name,login_id,role,pricing_plan_type"
#define LISTS_PATH                                                          \
	"/lists?fields=lists.id,lists.web_id,lists.name,lists.double_optin,"    \
	"lists.campaign_defaults.from_name,lists.campaign_defaults.from_email," \
	"lists.stats.member_count"
#define TEMPLATES_PATH                                                                         \
	"/templates?type=user&fields=templates.id,templates.name,templates.type,templates.active," \
	"templates.date_edited"
#define DOMAINS_PATH "/verified-domains"
#define FIELDS_PATH                                                                           \
	"/lists/%s/merge-fields?fields=merge_fields.merge_id,merge_fields.tag,merge_fields.name," \
	"merge_fields.type,merge_fields.required"

PG_FUNCTION_INFO_V1(mc_refresh);
PG_FUNCTION_INFO_V1(mc_ask_account);

/* An answer that is not what we asked for: an error as it is, anything else for lack of the member. */
static McReply *
unusable(McReply *reply, const char *member)
{
	if (reply->outcome == MC_ANSWERED && reply->status >= 200 && reply->status <= 299)
	{
		reply->outcome = MC_DOUBT;
		reply->title = "No usable answer";
		reply->detail =
			psprintf("the answer (HTTP status %d) has no \"%s\"", reply->status, member);
	}
	return reply;
}

/* One page of an array. Returns the answer if it is not usable, else NULL. */
static McReply *
ask_array(const McConnection *connection, const char *path, const char *member,
		  TimestampTz deadline, cJSON **array)
{
	McReply *reply = mc_ask(connection, "GET", path, NULL, deadline);

	*array = cJSON_GetObjectItemCaseSensitive(reply->json, member);
	return mc_reply_ok(reply) && cJSON_IsArray(*array) ? NULL : unusable(reply, member);
}

/* All pages of an array, put together in the first one. */
static McReply *
ask_pages(const McConnection *connection, const char *path, const char *member,
		  TimestampTz deadline, cJSON **array)
{
	*array = NULL;
	for (int offset = 0;; offset += PAGE_SIZE)
	{
		char *page_path = psprintf("%s&count=%d&offset=%d", path, PAGE_SIZE, offset);
		cJSON *page;
		int rows;
		McReply *failed = ask_array(connection, page_path, member, deadline, &page);

		if (failed != NULL)
			return failed;
		rows = cJSON_GetArraySize(page);
		if (*array == NULL)
			*array = page;
		else
			while (page->child != NULL)
				cJSON_AddItemToArray(*array, cJSON_DetachItemViaPointer(page, page->child));
		if (rows < PAGE_SIZE)
			return NULL;
	}
}

/*
 * A user of Mailchimp with a small role sees part of the account only, and a
 * list can be deleted there: the rest is worth having. Everything else ends it.
 */
static McReply *
tolerate(McReply *failed, const char *what, cJSON **array)
{
	if (failed == NULL || failed->outcome != MC_ANSWERED ||
		(failed->status != 403 && failed->status != 404))
		return failed;
	*array = NULL;
	ereport(WARNING, (errcode(ERRCODE_WARNING), errmsg("Mailchimp does not show the %s", what),
					  errdetail_internal("%s: %s", failed->title ? failed->title : "no title",
										 failed->detail ? failed->detail : "")));
	return NULL;
}

McReply *
mc_account_ask(const McConnection *connection, const List *list_ids, McAccount *account)
{
	TimestampTz deadline = mc_ask_deadline();
	McReply *reply = mc_ask(connection, "GET", ROOT_PATH, NULL, deadline);
	McReply *failed;
	ListCell *cell;

	memset(account, 0, sizeof(McAccount));
	if (!mc_reply_ok(reply) || mc_json_text(reply->json, "account_id") == NULL)
		return unusable(reply, "account_id");
	account->root = reply->json;
	account->account_name = mc_json_text(account->root, "account_name");

	failed = ask_pages(connection, LISTS_PATH, "lists", deadline, &account->lists);
	if ((failed = tolerate(failed, "lists", &account->lists)) != NULL)
		return failed;
	failed = ask_pages(connection, TEMPLATES_PATH, "templates", deadline, &account->templates);
	if ((failed = tolerate(failed, "templates", &account->templates)) != NULL)
		return failed;
	failed = ask_array(connection, DOMAINS_PATH, "domains", deadline, &account->domains);
	if ((failed = tolerate(failed, "sending domains", &account->domains)) != NULL)
		return failed;

	foreach(cell, list_ids)
	{
		McListFields *list = palloc0(sizeof(McListFields));

		list->list_id = lfirst(cell);
		failed = ask_pages(connection, psprintf(FIELDS_PATH, list->list_id), "merge_fields",
						   deadline, &list->fields);
		failed =
			tolerate(failed, psprintf("merge fields of list %s", list->list_id), &list->fields);
		if (failed != NULL)
			return failed;
		account->list_fields = lappend(account->list_fields, list);
	}
	return NULL;
}

static void
store_fields(const McConnection *connection, const McListFields *list)
{
	if (list->fields == NULL)
		return;
	MC_SQL("SELECT mailchimp_sync.store_list_fields($1, $2, $3, $4, $5, $6, $7)",
		   mc_arg_text(connection->name), mc_arg_text(list->list_id),
		   mc_json_column(list->fields, "tag"), mc_json_column(list->fields, "merge_id"),
		   mc_json_column(list->fields, "name"), mc_json_column(list->fields, "type"),
		   mc_json_column(list->fields, "required"));
}

void
mc_account_store(const McConnection *connection, const McAccount *account, bool switch_account)
{
	const cJSON *root = account->root;
	ListCell *cell;

	MC_SQL("SELECT mailchimp_sync.store_account($1, $2, $3, $4, $5, $6, $7, $8)",
		   mc_arg_text(connection->name), mc_arg_text(connection->dc),
		   mc_json_text_arg(root, "account_id"), mc_arg_text(account->account_name),
		   mc_json_text_arg(root, "login_id"), mc_json_text_arg(root, "role"),
		   mc_json_text_arg(root, "pricing_plan_type"), mc_arg_bool(switch_account));
	if (account->lists != NULL)
		MC_SQL("SELECT mailchimp_sync.store_lists($1, $2, $3, $4, $5, $6, $7, $8)",
			   mc_arg_text(connection->name), mc_json_column(account->lists, "id"),
			   mc_json_column(account->lists, "web_id"), mc_json_column(account->lists, "name"),
			   mc_json_column(account->lists, "campaign_defaults.from_name"),
			   mc_json_column(account->lists, "campaign_defaults.from_email"),
			   mc_json_column(account->lists, "stats.member_count"),
			   mc_json_column(account->lists, "double_optin"));
	if (account->templates != NULL)
		MC_SQL("SELECT mailchimp_sync.store_templates($1, $2, $3, $4, $5, $6)",
			   mc_arg_text(connection->name), mc_json_column(account->templates, "id"),
			   mc_json_column(account->templates, "name"),
			   mc_json_column(account->templates, "type"),
			   mc_json_column(account->templates, "active"),
			   mc_json_column(account->templates, "date_edited"));
	if (account->domains != NULL)
		MC_SQL("SELECT mailchimp_sync.store_domains($1, $2, $3, $4, $5)",
			   mc_arg_text(connection->name), mc_json_column(account->domains, "domain"),
			   mc_json_column(account->domains, "verified"),
			   mc_json_column(account->domains, "authenticated"),
			   mc_json_column(account->domains, "status"));
	foreach(cell, account->list_fields)
		store_fields(connection, lfirst(cell));
}

/* The lists that audiences of the connection are coupled to. */
static List *
coupled_lists(const char *connection)
{
	List *result = NIL;
	uint64 rows = MC_SQL("SELECT a.list_id FROM mailchimp_sync.audience a WHERE a.connection = $1 "
						 "ORDER BY a.audience_id",
						 mc_arg_text(connection));

	for (uint64 i = 0; i < rows; i++)
		result = lappend(result, mc_result_text(i, 1));
	return result;
}

/* Asks again and stores it. Returns the answer that was not usable, NULL if all were. */
static McReply *
refresh(const char *name)
{
	McConnection *connection = mc_connection_load(name);
	McAccount account;
	McReply *failed = mc_account_ask(connection, coupled_lists(name), &account);

	if (failed == NULL)
		mc_account_store(connection, &account, false);
	return failed;
}

/* mc_refresh(_connection), behind the gate: as the extension's owner */
Datum
mc_refresh(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	McReply *failed;

	SPI_connect();
	MC_SQL("SELECT mailchimp_sync.require_sending($1)", mc_arg_text(name));
	failed = refresh(name);
	if (failed != NULL)
		mc_reply_raise(failed);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * ask_account(_connection, OUT outcome, OUT status, OUT title, OUT detail,
 * OUT retry_after_s): as mc_refresh, but what is wrong is the result. For
 * mc_check_connection, which is to tell about it, and works also where nothing
 * else is sent.
 */
Datum
mc_ask_account(PG_FUNCTION_ARGS)
{
	TupleDesc tupdesc;
	Datum values[5] = {0};
	bool nulls[5] = {false, false, true, true, true};
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	MemoryContext context = CurrentMemoryContext;
	McReply *failed;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	SPI_connect();
	failed = refresh(name);
	MemoryContextSwitchTo(context);
	values[0] = CStringGetTextDatum(mc_outcome_name(failed ? failed->outcome : MC_ANSWERED));
	values[1] = Int32GetDatum(failed ? failed->status : 200);
	if (failed != NULL)
	{
		nulls[2] = failed->title == NULL;
		if (failed->title != NULL)
			values[2] = CStringGetTextDatum(failed->title);
		nulls[3] = failed->detail == NULL;
		if (failed->detail != NULL)
			values[3] = CStringGetTextDatum(failed->detail);
		nulls[4] = failed->retry_after_s < 0;
		values[4] = Int32GetDatum(failed->retry_after_s);
	}
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
