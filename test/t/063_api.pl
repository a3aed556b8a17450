# mc_api: a request of one's own, with the slots, the retries, the log and the limits of the rest (N3, N12, N18).

use strict;
use warnings;
use McCrm;
use McTest;
use Test::More;

my $crm = McCrm->start('main', candidates => 2);
my ($sim, $node, $list) = @$crm{qw(sim node list)};
my $member = "/lists/$list/members/" . '18bbb6f1ca3b4c4ed84e97e7ddd2f33c';
$crm->sync;

sub api { my ($sql, %as) = @_; return $node->query("SELECT mc_api('main', $sql)", as => $as{as} // 'ann') }
sub fails { my ($sql, %as) = @_; return $node->error("SELECT mc_api('main', $sql)", as => $as{as} // 'ann') }
sub notice { return ($node->psql('postgres', "SELECT mc_api('main', $_[0])", extra_params => [ '-U', 'ann', '-v', 'VERBOSITY=verbose' ]))[2] }
sub asked { return join ', ', map { "$_->{method} $_->{path} " . ($_->{status} // '-') } $crm->journal }
sub logged { return $crm->rita("SELECT string_agg(concat_ws(' ', method, path, status, outcome), ', ' ORDER BY started_at) FROM mc_request WHERE work = 'api'") }
my $yes = JSON::PP::true;
$crm->journal;

# ---- reading

is(api("'GET', '/lists?fields=lists.name,total_items'"), '{"lists": [{"name": "Customers"}], "total_items": 1}', 'GET gives the answer');
is(api("'get', 'ping'"), '{"health_status": "Everything\'s Chimpy!"}', 'a method in lower case, a path without a slash');
is(notice("'GET', '/ping'"), '', 'nothing is said of a GET');
is(logged(), 'GET /lists?fields=lists.name,total_items 200 answered, GET /ping 200 answered, GET /ping 200 answered', 'it is in the log');
$crm->act('c1', 'edit', merge_fields => { FNAME => "Zo\x{eb} \x{20ac}" });
is($crm->ann("SELECT mc_api('main', 'GET', '/lists/$list/members/c1%40crm.test?fields=merge_fields.FNAME,email_address') #>> '{merge_fields,FNAME}'
	= U&'Zo\\00EB \\20AC'"), 't', 'in the database\'s encoding');
like(logged(), qr{GET /lists/$list/members/\*\?fields=merge_fields.FNAME,email_address 200}, 'N12: the log has no address');

# ---- writing

asked();
my $cafe = "Caf\x{e9}";
like(notice("'POST', '/lists/$list/segments', jsonb_build_object('name', U&'Caf\\00E9', 'static_segment', '[]'::jsonb)"),
	qr{NOTICE:  00000: Mailchimp has done it: POST /lists/$list/segments\nDETAIL:  A ROLLBACK does not undo that\.}, 'others than GET say that they write');
is(($crm->segment($cafe) // {})->{member_count}, 0, 'the body arrives as UTF-8');
is($node->query("BEGIN; SELECT mc_api('main', 'DELETE', '/lists/$list/segments/" . $crm->segment($cafe)->{id} . "') IS NULL; ROLLBACK", as => 'ann'),
	't', 'an answer without a body is null');
is($crm->segment($cafe), undef, 'and a ROLLBACK leaves it done');
is(api("'PATCH', '/lists/$list/members/c1%40crm.test', '{\"vip\": true}'") =~ /"vip": true/, 1, 'PATCH');
like(api("'PUT', '/lists/$list/members/c1%40crm.test', '{\"email_address\": \"c1\@crm.test\", \"language\": \"nl\"}'"), qr/"language": "nl"/, 'PUT');

# ---- what is wrong

like(fails("'GET', '/lists/none'"), qr/ERROR:  38000: Mailchimp: Resource Not Found\nDETAIL:  The requested resource could not be found\./, 'Mailchimp\'s words');
like(fails("'POST', '/lists/$list/members', '{\"email_address\": \"x\@example.com\", \"status\": \"subscribed\"}'"),
	qr/ERROR:  38000: Mailchimp: Invalid Resource\nDETAIL:  .*looks fake or invalid/, 'with its fields');
asked();
for my $path ('', 'https://evil.test/lists', '//evil.test/lists', '/lists/../..', '/lists/%2E%2e/x', '/lists/.', '/lists/a b', "/lists/\xc3\xab", '/lists#x', '/lists\\x', "/lists\nx")
{
	like(fails(q{'GET', E'} . $path =~ s/\\/\\\\/r . q{'}), $path eq '' ? qr/^$/ : qr/22023: ".*" is no path of the API/s, "no path: $path");
}
is(asked(), 'GET / 200', 'nothing was asked for them');
like(fails("'HEAD', '/lists'"), qr/22023: "HEAD" is no method of the API.*GET, POST, PUT, PATCH, DELETE/s, 'a method that there is not');
like(fails("'GET', '/lists', '{}'"), qr/22023: GET takes no body/, 'a body for GET');
like($node->error("SELECT mc_api('mian', 'GET', '/lists')"), qr/42704.*main/s, 'a connection that there is not');
like(fails("'GET', '/lists'", as => 'max'), qr/42501: permission denied/, 'N12: it takes an admin');
like($node->error("BEGIN READ ONLY; SELECT mc_api('main', 'DELETE', '$member')", as => 'ann'), qr/25006/, 'not in a transaction that cannot keep the log');
is(asked(), '', 'nothing was asked for them');

# ---- as the rest: retries, slots, what stops everything

$sim->fault(path => '^/ping$', fault => 'bare_429');
like(api("'GET', '/ping'"), qr/Chimpy/, 'it is tried again where Mailchimp is busy');
$sim->fault(path => '^/ping$', fault => 'reset_after');
like(fails("'POST', '/ping'"), qr/ERROR:  08006: no usable answer from Mailchimp/, 'never after doubt');
is(asked(), 'GET /ping 429, GET /ping 200, POST /ping -', 'as the journal shows');
$crm->ann(q{SELECT mc_alter_connection('main', '{"max_connections": 2}')});		# the doubtful one has one of them
$sim->hold(method => 'GET', path => '^/ping$', when => 'before');
my $session = $node->session(as => 'ann');
McTest::begin($session, "SELECT mc_api('main', 'GET', '/ping');");
$sim->wait_held;
my $second = $node->session(as => 'ann');
McTest::begin($second, "SELECT mc_api('main', 'GET', '/lists?count=1');");
$node->wait_until("SELECT count(*) = 2 FROM pg_stat_activity WHERE query LIKE 'SELECT mc_api%' AND state = 'active' AND wait_event_type = 'Extension'");
is(scalar(grep { $_->{path} eq '/lists' } $sim->journal(since => $crm->{since})), 0, 'it waits for a slot');
$sim->release;
like($_->query(''), qr/Chimpy|Customers/, 'and gets it') for $session, $second;
$session->quit;
$second->quit;
$crm->journal;

$crm->ann("SELECT mc_pause('main')");
like(fails("'GET', '/ping'"), qr/55000: connection "main" is paused/, 'a pause');
$crm->ann("SELECT mc_resume('main')");
like($node->error("SET mailchimp_sync.send = off; SELECT mc_api('main', 'GET', '/ping')"), qr/55000: nothing may be sent/, 'send = off');
$crm->ann(q{SELECT mc_alter_connection('main', '{"only_addresses": ["c1@crm.test"]}')});
like(fails("'DELETE', '$member'"), qr/55000: connection "main" is for training/, 'N18: training changes nothing this way');
is(asked(), '', 'none of them is a request');
like(api("'GET', '/ping'"), qr/Chimpy/, 'but reads');
$crm->ann(q{SELECT mc_alter_connection('main', '{"only_addresses": null}')});

# ---- our campaigns are sent by what sends once

my $campaign = $crm->max("SELECT mc_create_campaign('News', 'people', 'Newsletter', 'Demo', 'news\@example.org')");
$crm->max("SELECT mc_add_recipients($campaign, 'candidate', '{1,2}'); SELECT mc_prepare_campaign($campaign)");
$crm->run;
my $id = $crm->rita("SELECT mailchimp_id FROM mc_campaign WHERE campaign_id = $campaign");
$crm->journal;
like(fails("'POST', '/campaigns/$id/actions/$_'"), qr/55000: that is campaign $campaign, which has functions of its own/, "N3: no $_ of a campaign of ours")
	for qw(send schedule Send);
like(fails("'POST', '/batches', '{\"operations\": [{\"method\": \"POST\", \"path\": \"/campaigns/$id/actions/send\"}]}'"), qr/55000: that is campaign $campaign,/,
	'nor as an operation of a batch');
like(fails("'POST', '/campaigns/" . $id =~ s/(.)/sprintf '%%%02x', ord $1/er . "/actions/send'"), qr/22023: ".*" hides letters/, 'nor by another spelling');
is(asked(), '', 'and no request');
like(api("'GET', '/campaigns/$id?fields=status'"), qr/"save"/, 'it can be looked at');

done_testing();
