# What is not ready, and the way out (R3-R5, R25, R34-R36): the sender's domain, the template, the recipients, the list, the
# role of the key's user. Each reason in words that a marketer can act on, in last_error, mc_failure and mc_check_campaign; nothing
# is left at Mailchimp that should not be; and when it is mended, mc_send_campaign goes on.

use strict;
use warnings;
use JSON::PP ();
use McCampaign;
use McTest;
use Test::More;

my ($yes, $no) = (JSON::PP::true, JSON::PP::false);
my $crm = McCampaign->start(people => 12, worker => 1);
my ($sim, $node, $list) = @$crm{qw(sim node list)};
my $account = $sim->get('/_sim/state')->{accounts}[0]{account_id};
my %template = map { reverse split /\|/ } split /\n/, $crm->mia('SELECT template_id, name FROM mc_template');
my $nothing = 'campaigns 0 sends 0 segments 0';
my $names = 0;

sub act { my (%act) = @_; return $sim->post('/_sim/act', \%act) }
sub domain { my ($name, $verified, $authenticated) = @_; act(account => $account, action => 'set_domain', domain => $name, verified => $verified, authenticated => $authenticated) }
sub last_request { my ($last) = sort { $b <=> $a } 0, map { $_->{n} } $sim->journal; return $last }

# A campaign with that sender and template, and the same as it is sent; how many mails it comes to.
sub draft
{
	my (%with) = @_;
	my $name = 'n' . ++$names;
	my $campaign = $crm->campaign($name, $with{keys} // '{1,2}');
	delete $with{keys};
	$crm->mia("SELECT mc_alter_campaign($campaign, '" . JSON::PP::encode_json(\%with) . "')") if %with;
	return ($campaign, $name);
}

sub ends
{
	my ($campaign, $status) = @_;
	$crm->mia("SELECT mc_send_campaign($campaign)");
	$crm->wait_status($campaign, $status);
	return $crm->column($campaign, "coalesce(last_error, '')");
}

# What was asked of Mailchimp before anything is made there, and whether anything was.
sub looks
{
	my ($since) = @_;
	my %count;
	$count{ $_->{route} }++ for grep { $_->{route} =~ m{^(GET /verified-domains|GET /templates/\{template_id\}|POST /lists/\{list_id\}/segments|POST /campaigns)$} } $sim->journal(since => $since);
	return join ', ', map { "$count{$_} $_" } sort keys %count;
}

sub findings { my ($campaign, $ok) = @_; return $crm->mia('SELECT concat_ws(\': \', heading, detail) FROM mc_check_campaign(' . $campaign . ') WHERE ' . ($ok ? 'ok' : 'NOT ok')) }
sub failure { my ($campaign) = @_; return $crm->mia("SELECT title, next_attempt_at IS NULL FROM mc_failure WHERE work = 'campaign' AND campaign_id = $campaign") }
sub sent { my ($name, @keys) = @_; return join ' ', 'campaigns 1 sends 1 segments 1', map { "p$_\@example.org=1" } @keys ? @keys : (1, 2) }

# ---- what is known to be fine is not asked again within ten minutes, else once

my ($campaign, $name) = draft();
my $since = last_request();
is(ends($campaign, 'sent'), '', 'everything is ready');
is(looks($since), '1 POST /campaigns, 1 POST /lists/{list_id}/segments', 'known from mc_connect');
$crm->later(660);
($campaign, $name) = draft();
$since = last_request();
ends($campaign, 'sent');
is(looks($since), '1 GET /templates/{template_id}, 1 GET /verified-domains, 1 POST /campaigns, 1 POST /lists/{list_id}/segments', 'known no longer: asked once');
$since = last_request();
($campaign, $name) = draft();
ends($campaign, 'sent');
is(looks($since), '1 POST /campaigns, 1 POST /lists/{list_id}/segments', 'and known again');

# ---- the domain is not verified

$crm->ada("INSERT INTO candidate (id, email, in_rule) VALUES (50, 'p50\@example.org', false)");
($campaign, $name) = draft(from_email => 'mia@Elsewhere.test', keys => '{1,2,50}');
$since = last_request();
my $why = ends($campaign, 'failed');
like($why, qr/^the sender's domain is not verified: Mailchimp sends nothing from mia\@Elsewhere\.test: verify elsewhere\.test at Mailchimp \(Account > Domains > Add & Verify Domain\): a mail with a code goes to an address at that domain\. Or give a sender at another domain: mc_alter_campaign\($campaign, '\{"from_email": "\.\.\."\}'\); verified: example\.org$/,
	'R4: what to do');
is(looks($since), '1 GET /verified-domains', 'nothing was made');
is($crm->remains($name), $nothing, 'nothing is there');
is(scalar(grep { $_->{email_address} eq 'p50@example.org' } @{ $sim->get("/_sim/lists/$list/members")->{members} }), 0, 'and nobody was added to the list for it');
is(failure($campaign), q{the sender's domain is not verified|t}, 'mc_failure');
like(findings($campaign), qr/^domain elsewhere\.test is not ready: Mailchimp sends nothing from/m, 'R34: mc_check_campaign');
domain('elsewhere.test', $yes, $no);
is(ends($campaign, 'sent'), '', 'R4: verified at Mailchimp, it goes on');
is($crm->remains($name), sent($name, 1, 2, 50), 'once');
is(failure($campaign), '', 'and is no failure any more');
($campaign, $name) = draft(from_email => 'mia@nowhere.test');
ends($campaign, 'failed');
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"from_email\": \"mia\@example.org\"}')");
ends($campaign, 'sent');
is($crm->remains($name), sent($name), 'R35: or from another address');

# its sender is changed when it is prepared: not told to Mailchimp
($campaign, $name) = draft();
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
$since = last_request();
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"from_email\": \"mia\@nowhere.test\"}')");
$crm->wait_status($campaign, 'failed');
is(scalar($sim->journal(method => 'PATCH', path => '^/campaigns/', since => $since)), 0, 'a prepared one is not changed to a sender that cannot be');
$crm->mia("SELECT mc_alter_campaign($campaign, '{\"from_email\": \"mia\@example.org\"}')");
ends($campaign, 'sent');
is($crm->remains($name), sent($name), 'and goes on from the former');

# ---- verified, and not authenticated: a warning

($campaign, $name) = draft(from_email => 'mia@elsewhere.test');
like(findings($campaign, 1), qr/^domain elsewhere\.test is verified, but not authenticated: Mailchimp sends, .*publish the CNAME and TXT \(SPF, DMARC\) records/m, 'R5: the records are missing');
is($crm->mia("SELECT verified, authenticated, advice ~ 'CNAME' FROM mc_domain WHERE domain = 'elsewhere.test'"), 't|f|t', 'R5: mc_domain');
ends($campaign, 'sent');
is($crm->remains($name), sent($name), 'and it is sent');

# ---- an address at a provider of free mail

($campaign, $name) = draft(from_email => 'mia.example@gmail.com');
like(ends($campaign, 'failed'), qr/^the sender's domain is not verified: .*send from an address at a domain of your own: gmail\.com belongs to a provider/, 'R4: nobody can verify that');
is($crm->remains($name), $nothing, 'nothing is there');
domain('gmail.com', $yes, $no);
ends($campaign, 'sent');
is($crm->remains($name), sent($name), 'where Mailchimp has verified it all the same, it is sent');
($campaign, $name) = draft(from_email => 'mia.example@gmail.com');
like(findings($campaign, 1), qr/^domain gmail\.com is of a provider of free mail: send from an address at a domain of your own/m, 'with a warning');

# ---- the template was deleted at Mailchimp after the draft: before anything is made

for my $how (qw(delete remove))
{
	my $id = act(account => $account, action => 'add_template', name => "Short-lived $how")->{ids}[0];
	$crm->mia("SELECT mc_refresh('demo')");
	($campaign, $name) = draft(template => "Short-lived $how");
	act(template => $id, action => $how);
	$crm->later(660);
	$since = last_request();
	is(ends($campaign, 'failed'), qq{the template is gone: template $id "Short-lived $how" was deleted at Mailchimp. }
		  . qq{Choose another one: mc_alter_campaign($campaign, '{"template": "..."}'); mc_template lists them}, "R34: $how");
	is(looks($since) =~ s/1 GET \/verified-domains//r, '1 GET /templates/{template_id}, ', 'nothing was made');
	is($crm->remains($name), $nothing, 'nothing is there');
	is(failure($campaign), 'the template is gone|t', 'mc_failure');
	like(findings($campaign), qr/^the template is gone: .*Choose another one/m, 'mc_check_campaign');
	is($crm->mia("SELECT active FROM mc_template WHERE template_id = $id"), 'f', 'mc_template');
	$crm->mia("SELECT mc_alter_campaign($campaign, '{\"template\": \"Newsletter\"}')");
	ends($campaign, 'sent');
	is($crm->remains($name), sent($name), 'R35: with another template it goes on');
}

# so lately that nobody knows: Mailchimp refuses it when the campaign is there, which keeps its template (R36)
my $id = act(account => $account, action => 'add_template', name => 'Shortest-lived')->{ids}[0];
$crm->mia("SELECT mc_refresh('demo')");
($campaign, $name) = draft(template => 'Shortest-lived');
act(template => $id, action => 'delete');
like(ends($campaign, 'failed'), qr/^Invalid Resource: .*This template does not exist.* make another campaign of this one with mc_copy_campaign\($campaign\), .*mc_delete_campaign\($campaign\)$/, 'R34: with the way out');
like(ends($campaign, 'failed'), qr/^the template is gone: .*The campaign exists there already, so that it keeps its template/, 'known by the next time');
my $copy = $crm->mia("SELECT mc_copy_campaign($campaign)");
$crm->mia("SELECT mc_delete_campaign($campaign)");
$crm->wait_status($campaign, 'deleted');
is($crm->remains($name), $nothing, 'R35: deleted, also at Mailchimp');
$crm->mia("SELECT mc_alter_campaign($copy, '{\"template\": \"Invitation\"}')");
ends($copy, 'sent');
is($crm->remains($name), sent($name), 'R35, R36: and another one with another template');

# ---- the template is incomplete: Mailchimp's checklist says so

($campaign, $name) = draft(template => 'Unfinished');
like(ends($campaign, 'failed'), qr/^not ready: Content: The template Unfinished is incomplete: a required part is empty\./, 'R34: Mailchimp\'s words');
is($crm->remains($name), 'campaigns 1 sends 0 segments 1', 'there, and not sent');
like(findings($campaign), qr/^Content: The template Unfinished is incomplete/m, 'mc_check_campaign');
act(template => $template{Unfinished}, action => 'edit', incomplete => $no);
ends($campaign, 'sent');
is($crm->remains($name), sent($name), 'completed at Mailchimp, it goes on');
act(template => $template{Unfinished}, action => 'edit', incomplete => $yes);
($campaign, $name) = draft(template => 'Unfinished');
ends($campaign, 'failed');
$crm->mia("SELECT mc_delete_campaign($campaign)");
$crm->wait_status($campaign, 'deleted');
is($crm->remains($name), $nothing, 'R35: or it is deleted, and nothing is left');

# ---- nobody is left to mail

($campaign, $name) = draft(keys => '{3}');
$crm->mia("SELECT mc_opt_out('candidate', 3)");
like($node->error("SELECT mc_send_campaign($campaign)", as => 'mia'),
	qr/campaign $campaign cannot be prepared: all recipients are skipped\nHINT:  mc_campaign_recipient shows the reason of each; mc_add_recipients adds others\./, 'R34: all have opted out');
$crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{4}')");
ends($campaign, 'sent');
is($crm->remains($name), sent($name, 4), 'others are added');
($campaign, $name) = draft(keys => '{5}');
$crm->ada('UPDATE candidate SET linked = false WHERE id = 5');
is(ends($campaign, 'failed'), 'nobody is left to mail: 1 not_linked', 'R34: seen on the way');
is($crm->remains($name), $nothing, 'nothing is there');
like(findings($campaign), qr/^all recipients are skipped: .*mc_add_recipients adds others/m, 'mc_check_campaign');
$crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{4}')");
ends($campaign, 'sent');
is($crm->remains($name), sent($name, 4), 'others are added');

# ---- the key's user may not

($campaign, $name) = draft();
act(account => $account, action => 'set_role', role => 'viewer');
like(ends($campaign, 'failed'), qr/^not allowed: Mailchimp does not let the user of the key do that: .+ takes the role manager, admin or owner; .* mc_connect\('demo', '\.\.\.'\)$/, 'R34: the role is too small');
is($crm->remains($name), $nothing, 'nothing is there');
is(failure($campaign), 'not allowed|t', 'mc_failure');
$crm->mia("SELECT mc_refresh('demo')");
like(findings($campaign), qr/^the user of the key is viewer: /m, 'mc_check_campaign');
act(account => $account, action => 'set_role', role => 'manager');
ends($campaign, 'sent');
is($crm->remains($name), sent($name), 'with another role it goes on');
my $forbidden = $sim->fault(path => '^/(verified-domains|templates)', times => -1, fault => { type => 'status', status => 403, json => $yes });
$crm->later(660);
($campaign, $name) = draft();
ends($campaign, 'sent');
is($crm->remains($name), sent($name), 'who may not look at domains and templates may send: the checklist has the last word');
$sim->delete("/_sim/faults/$forbidden");

# ---- whatever happens to the looks: nothing is made twice, and it is sent once

$node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '3s'");
$node->query('SELECT pg_reload_conf()');
my %faults = ('^/verified-domains$' => [qw(reset_before garbage bare_429)],
	'^/templates/[^/]+$' => [ 'hang', 'html_502', { type => 'status', status => 500, json => $yes } ]);
for my $path (sort keys %faults)
{
	$crm->later(660);
	($campaign, $name) = draft();
	$sim->fault(method => 'GET', path => $path, nth => $_, fault => $faults{$path}[ $_ - 1 ]) for 1 .. 3;
	ends($campaign, 'sent');
	is(join(' ', map { $_->{hits} } @{ $sim->get('/_sim/faults')->{faults} }), '1 1 1', "GET $path: three useless answers");
	is($crm->remains($name), sent($name), "N3: GET $path: and it is sent once");
	$sim->delete('/_sim/faults');
	$crm->later(660);
	($campaign, $name) = draft();
	$sim->hold(method => 'GET', path => $path, when => 'before');
	$crm->mia("SELECT mc_send_campaign($campaign)");
	$sim->wait_held;
	$node->kill_worker;
	$sim->release;
	$crm->wait_status($campaign, 'sent');
	is($crm->remains($name), sent($name), "N3: GET $path: the engine dies");
}

# ---- the list was deleted at Mailchimp

($campaign, $name) = draft();
act(list => $list, action => 'delete_list');
like(ends($campaign, 'failed'), qr/^the list is gone: The list $list of audience "customers" was deleted at Mailchimp, with its members\. Make an audience of another list/, 'R34: the list is gone');
is(failure($campaign), 'the list is gone|t', 'mc_failure');
$crm->mia("SELECT mc_refresh('demo')");
like($node->error("SELECT mc_send_campaign($campaign)", as => 'mia'), qr/cannot be prepared: its list was deleted at Mailchimp\nHINT:  The list $list/, 'refused at once when that is known');
like(findings($campaign), qr/^its list was deleted at Mailchimp: /m, 'mc_check_campaign');
$crm->mia("SELECT mc_delete_campaign($campaign)");
$crm->wait_status($campaign, 'deleted');
is(failure($campaign), '', 'R35: deleted');

$node->stop;
done_testing();
